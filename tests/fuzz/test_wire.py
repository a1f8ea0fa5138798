"""Bytes on the bus that nobody should have written: refused as what they are, or harmless to whoever reads them.

`make fuzz` tries a million of them.
"""

import os
from collections.abc import Callable, Sequence
from typing import Any

import msgpack
import msgspec
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from gateway.streaming.gap import items_of
from gpu_worker.fake_runner import FakeRunner
from scheduler_svc.scheduling.scheduler import Scheduler
from shared.errors import MessageError, PlanError
from shared.ids import BEFORE_FIRST_STEP, Epoch, Slot, StepId, WorkerId
from shared.messages import (
    VERSION,
    Admitted,
    Message,
    PoolStatus,
    StepPlan,
    StepResult,
    Submit,
    TokenBatch,
    WorkerBye,
    WorkerCapabilities,
    WorkerHello,
    WorkerStatus,
    decode,
    decode_inbound,
    encode,
)
from shared.packing import pack_u8, pack_u16, pack_u32
from shared.sampling import FinishCode, Pooling
from tests.shared.test_messages import BATCH, MESSAGES

NUM_EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "400"))
KINDS = (StepPlan, StepResult, TokenBatch, PoolStatus, WorkerStatus)
CAPABILITIES = WorkerCapabilities(
    model="fake", block_size=4, num_blocks=64, max_model_len=64, max_num_seqs=8, max_num_batched_tokens=64
)

fuzz = settings(
    max_examples=NUM_EXAMPLES,
    deadline=None,
    derandomize="FUZZ_EXAMPLES" not in os.environ,
    database=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate],
)

_edits = st.lists(st.tuples(st.integers(0, 4096), st.sampled_from("scxd"), st.binary(max_size=9)), max_size=4)
_odd_values = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.floats(), st.text(max_size=8), st.binary(max_size=9),
    st.lists(st.integers(0, 9), max_size=3), st.dictionaries(st.text(max_size=3), st.integers(0, 9), max_size=2),
)  # fmt: skip
_submit = MESSAGES["submit"]
SUBMIT = msgspec.structs.replace(
    _submit, sampling=msgspec.structs.replace(_submit.sampling, pooling=Pooling.NONE, max_tokens=9)
)
"""No gateway asks for several choices and for a vector."""

ANSWER = TokenBatch(
    gateway_id=SUBMIT.gateway_id,
    worker_id=WorkerId("w"),
    step=StepId(1, 1),
    previous=BEFORE_FIRST_STEP,
    slots=pack_u16([0]),
    handles=pack_u32([SUBMIT.handle]),
    indices=pack_u32([0]),
    counts=pack_u8([1]),
    finishes=pack_u8([FinishCode.RUNNING]),
    tokens=pack_u32([70]),
)
PLAN = StepPlan(
    admitted=(
        Admitted(
            slot=Slot(0),
            request_id=SUBMIT.request_id,
            choice=0,
            gateway_id=SUBMIT.gateway_id,
            handle=SUBMIT.handle,
            tokens=SUBMIT.prompt,
            num_prompt_tokens=3,
            num_computed_tokens=0,
            num_cached_tokens=0,
            blocks=pack_u32([5]),
            sampling=SUBMIT.sampling,
        ),
    ),
    appended_slots=pack_u16([0]),
    appended_blocks=pack_u32([6]),
    copies=pack_u32([7, 8]),
    slots=pack_u16([0]),
    num_tokens=pack_u32([3]),
)


@st.composite
def damaged(draw: Callable[..., Any], messages: Sequence[Message]) -> bytes:
    """A real message with some bytes set, cut away, cut off or doubled."""
    data = encode(draw(st.sampled_from(messages)))
    for where, how, piece in draw(_edits):
        place = where % (len(data) + 1)
        match how:
            case "s":
                data = data[:place] + piece + data[place + len(piece) :]
            case "c":
                data = data[:place] + data[place + len(piece) :]
            case "x":
                data = data[:place]
            case "d":
                data = data[:place] + data[max(0, place - 9) :]
    return data


@st.composite
def misshapen(draw: Callable[..., Any], messages: Sequence[Message]) -> bytes:
    """A real message with one of its values, however deep, replaced by another one."""
    value = msgpack.unpackb(encode(draw(st.sampled_from(messages)))[1:], strict_map_key=False)
    holder, key = [value], 0
    while isinstance(holder[key], dict | list) and holder[key] and draw(st.booleans()):
        holder = holder[key]
        keys = sorted(holder, key=repr) if isinstance(holder, dict) else range(len(holder))
        key = draw(st.sampled_from(keys))
    if holder[key] is not value:
        holder[key] = draw(_odd_values)
    return bytes([VERSION]) + msgpack.packb(value)


def bytes_like(*messages: Message) -> st.SearchStrategy[bytes]:
    """Bytes that are nearly one of these messages."""
    return damaged(messages) | misshapen(messages)


@fuzz
@given(bytes_like(*MESSAGES.values()))
def test_what_decodes_is_a_message(data: bytes) -> None:
    for kind in KINDS:
        try:
            message = decode(data, kind)
        except MessageError:
            continue
        assert isinstance(message, kind)
        again = encode(message)
        assert encode(decode(again, kind)) == again


@fuzz
@given(st.lists(bytes_like(SUBMIT, MESSAGES["cancel"]), max_size=6))
def test_no_message_harms_a_scheduler(inbox: list[bytes]) -> None:
    core, runner = Scheduler(Epoch(1)), FakeRunner(CAPABILITIES)
    worker = WorkerId("w")
    core.add_worker(worker, CAPABILITIES)
    for entry, data in enumerate(inbox):
        try:
            message = decode_inbound(data)
        except MessageError:
            continue
        match message:
            case Submit():
                core.submit(message, entry=str(entry))
            case WorkerHello() | WorkerBye():
                pass
            case _:
                core.cancel(message)
    core.check()
    for now_s in range(4):
        planned = core.next_plan(worker, now_s=float(now_s))
        if planned is None:
            break
        runner.step(planned[1])
        core.check()


@fuzz
@given(bytes_like(BATCH))
def test_no_batch_of_tokens_harms_a_gateway(data: bytes) -> None:
    try:
        list(items_of(decode(data, TokenBatch)))
    except MessageError:
        return


@fuzz
@given(bytes_like(StepResult(batches=(ANSWER,), compute_us=9, num_tokens=3)))
def test_no_result_harms_a_scheduler(data: bytes) -> None:
    try:
        result = decode(data, StepResult)
    except MessageError:
        return
    core = Scheduler(Epoch(1))
    worker = WorkerId("w")
    core.add_worker(worker, CAPABILITIES)
    core.submit(SUBMIT, entry="0")
    planned = core.next_plan(worker, now_s=0.0)
    assert planned is not None
    step, _ = planned
    try:
        core.complete(worker, step, result)
    except PlanError:
        core.remove_worker(worker)
    core.check()


@fuzz
@given(bytes_like(PLAN))
def test_no_plan_harms_a_worker_but_by_ending_it(data: bytes) -> None:
    try:
        FakeRunner(CAPABILITIES).step(decode(data, StepPlan))
    except (MessageError, PlanError):
        return

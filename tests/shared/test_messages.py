"""The wire format. `golden/` holds the bytes of each message as they stand on running systems.

A changed file there means that an old process cannot read a new one: add fields, with defaults, or raise `VERSION`.
"""

from pathlib import Path
from typing import Any

import msgpack
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.cached_blocks import BlockHash, CachedBlocks
from shared.errors import MessageError
from shared.ids import BlockId, GatewayId, Handle, RequestId, Slot, StepId, WorkerId
from shared.messages import (
    VERSION,
    Admitted,
    Attach,
    Cancel,
    Embedding,
    Fault,
    Logprobs,
    LogprobSpan,
    Message,
    PoolStatus,
    StepPlan,
    StepResult,
    Submit,
    TokenBatch,
    Told,
    WorkerBye,
    WorkerCapabilities,
    WorkerHello,
    WorkerStatus,
    decode,
    decode_inbound,
    encode,
)
from shared.packing import pack_f32, pack_u8, pack_u16, pack_u32
from shared.sampling import FinishCode, Pooling, SamplingParams

GOLDEN = Path(__file__).parent / "golden"

SAMPLING = SamplingParams(
    temperature=0.5, top_p=0.9, seed=2**63, max_tokens=64, stop_token_ids=(2, 7), n=2, logit_bias=((5, -1.5),),
    allowed_token_ids=(5, 6), bad_words=((5, 6), (7,)), logprobs=2, prompt_logprobs=0, pooling=Pooling.MEAN,
)  # fmt: skip
CAPABILITIES = WorkerCapabilities(
    model="demo", block_size=16, num_blocks=512, max_model_len=2048, max_num_seqs=64, max_num_batched_tokens=512,
    num_efficient_tokens=128, kernels="native avx512", dtype="stored", kv_cache_dtype="float32", quantization="none",
)  # fmt: skip
BATCH = TokenBatch(
    gateway_id=GatewayId("gw-1"),
    worker_id=WorkerId("w1"),
    step=StepId(1_700_000_000, 18),
    previous=StepId(1_700_000_000, 16),
    slots=pack_u16([0, 300]),
    handles=pack_u32([7, 70_000]),
    indices=pack_u32([0, 41]),
    counts=pack_u8([1, 2]),
    finishes=pack_u8([FinishCode.RUNNING, FinishCode.STOP]),
    tokens=pack_u32([11, 12, 2]),
    cached=pack_u32([16]),
    faults=(Fault(handle=Handle(9), status=500, message="nan", code="not_finite"),),
    logprobs=(
        LogprobSpan(
            handle=Handle(70_000),
            start=41,
            logprobs=Logprobs(
                num_top=1,
                chosen=pack_f32([-0.5, -2.25]),
                ranks=pack_u32([1, 3]),
                top_ids=pack_u32([12, 40_000]),
                top=pack_f32([-0.5, -0.25]),
            ),
        ),
    ),
    prompt_logprobs=(
        LogprobSpan(
            handle=Handle(8),
            start=1,
            logprobs=Logprobs(num_top=0, chosen=pack_f32([-1.5]), ranks=pack_u32([2]), top_ids=b"", top=b""),
        ),
    ),
    embeddings=(Embedding(handle=Handle(8), vector=pack_f32([0.5, -2.0])),),
)
MESSAGES: dict[str, Message] = {
    "submit": Submit(
        request_id=RequestId("r-1"),
        gateway_id=GatewayId("gw-1"),
        handle=Handle(7),
        prompt=pack_u32([1, 2, 70_000]),
        sampling=SAMPLING,
        arrived_ms=1_700_000_000_123,
        priority=-1,
        cache_salt="tenant",
        told=(Told(pack_u32([11, 12]), is_finished=True), Told()),
        deadline_ms=1_700_000_009_123,
        api_key_id="key-1",
    ),
    "cancel": Cancel(request_id=RequestId("r-1"), reason="stop", choice=1, delivered=(17,)),
    "attach": Attach(
        request_id=RequestId("r-1"),
        follower=GatewayId("gw-2"),
        gateway_id=GatewayId("gw-1"),
        handle=Handle(7),
        num_choices=2,
    ),
    "worker_hello": WorkerHello(
        worker_id=WorkerId("w1"),
        capabilities=CAPABILITIES,
        formerly=WorkerId("w0"),
        cached=CachedBlocks.of([(BlockId(6), BlockHash(b"0123456789abcdef")), (BlockId(2), BlockHash(b"f" * 16))]),
    ),
    "worker_bye": WorkerBye(worker_id=WorkerId("w1"), error="out of memory"),
    "step_plan": StepPlan(
        released=pack_u16([3]),
        admitted=(
            Admitted(
                slot=Slot(3),
                request_id=RequestId("r-1"),
                choice=0,
                gateway_id=GatewayId("gw-1"),
                handle=Handle(7),
                tokens=pack_u32([1, 2, 3]),
                num_prompt_tokens=2,
                num_computed_tokens=1,
                num_cached_tokens=1,
                blocks=pack_u32([5, 6]),
                sampling=SAMPLING,
            ),
        ),
        appended_slots=pack_u16([0]),
        appended_blocks=pack_u32([9]),
        copies=pack_u32([4, 6]),
        slots=pack_u16([0, 3]),
        num_tokens=pack_u32([1, 2]),
        cached=CachedBlocks.of([(BlockId(4), BlockHash(b"0123456789abcdef"))]),
    ),
    "step_result": StepResult(batches=(BATCH,), compute_us=1234, num_tokens=3),
    "token_batch": BATCH,
    "worker_status": WorkerStatus(
        worker_id=WorkerId("w1"),
        capabilities=CAPABILITIES,
        last_step=StepId(1_700_000_000, 18),
        num_queued_plans=2,
        host="worker-1",
    ),
    "pool_status": PoolStatus(
        epoch=1_700_000_000,
        model="demo",
        max_model_len=2048,
        num_workers=2,
        num_running=5,
        requests_per_s=1.5,
        kv_cache_unused_ratio=0.25,
        workers={WorkerId("w1"): CAPABILITIES},
        num_waiting_tokens=300,
        tokens_per_s=950.5,
    ),
}
INBOUND = {"submit", "cancel", "attach", "worker_hello", "worker_bye"}
MAPS = INBOUND | {"worker_status", "pool_status"}


@pytest.mark.parametrize("name", MESSAGES)
def test_the_bytes_of_a_message_are_the_golden_ones(name: str) -> None:
    assert encode(MESSAGES[name]) == (GOLDEN / f"{name}.msgpack").read_bytes()


@pytest.mark.parametrize("name", MESSAGES)
def test_golden_bytes_decode_to_the_message(name: str) -> None:
    data, message = (GOLDEN / f"{name}.msgpack").read_bytes(), MESSAGES[name]
    decoded = decode_inbound(data) if name in INBOUND else decode(data, type(message))
    assert decoded == message


def test_every_golden_file_belongs_to_a_message() -> None:
    assert {path.stem for path in GOLDEN.iterdir()} == MESSAGES.keys()


@pytest.mark.parametrize("name", MESSAGES)
def test_messages_are_plain_messagepack(name: str) -> None:
    data = (GOLDEN / f"{name}.msgpack").read_bytes()
    assert data[0] == VERSION
    content = msgpack.unpackb(data[1:])
    assert type(content) is (dict if name in MAPS else list)
    assert content == _plain(MESSAGES[name])


def _plain(message: Any) -> Any:
    return msgpack.unpackb(msgspec.msgpack.encode(message))


def test_messagepack_shows_fields_by_their_names() -> None:
    content = msgpack.unpackb((GOLDEN / "submit.msgpack").read_bytes()[1:])
    assert (content["t"], content["request_id"], content["prompt"]) == ("submit", "r-1", pack_u32([1, 2, 70_000]))
    assert content["sampling"]["stop_token_ids"] == [2, 7]


def test_a_reader_skips_fields_it_does_not_know() -> None:
    content = msgpack.unpackb(encode(MESSAGES["cancel"])[1:])
    newer = bytes([VERSION]) + msgpack.packb(content | {"colour": "red"})
    assert decode_inbound(newer) == MESSAGES["cancel"]
    longer = bytes([VERSION]) + msgpack.packb([*msgpack.unpackb(encode(BATCH)[1:]), "more"])
    assert decode(longer, TokenBatch) == BATCH


def test_what_an_older_process_does_not_say_is_left_open() -> None:
    hello = msgpack.unpackb(encode(MESSAGES["worker_hello"])[1:])
    for name in ("kernels", "dtype", "kv_cache_dtype", "quantization"):
        del hello["capabilities"][name]
    del hello["formerly"], hello["cached"]
    older = decode_inbound(bytes([VERSION]) + msgpack.packb(hello))
    assert isinstance(older, WorkerHello)
    assert (older.capabilities.kernels, older.capabilities.quantization) == ("", "")
    assert (older.formerly, list(older.cached)) == ("", [])
    status = msgpack.unpackb(encode(MESSAGES["pool_status"])[1:])
    del status["kv_cache_unused_ratio"], status["workers"]
    assert decode(bytes([VERSION]) + msgpack.packb(status), PoolStatus).workers == {}
    submit = msgpack.unpackb(encode(MESSAGES["submit"])[1:])
    for name in ("logit_bias", "allowed_token_ids", "bad_words", "logprobs", "prompt_logprobs"):
        del submit["sampling"][name]
    del submit["told"]
    sampling = decode_inbound(bytes([VERSION]) + msgpack.packb(submit)).sampling
    assert (sampling.logit_bias, sampling.allowed_token_ids, sampling.bad_words) == ((), (), ())
    assert (sampling.logprobs, sampling.prompt_logprobs) == (None, None)
    batch = msgpack.unpackb(encode(BATCH)[1:])[:12]
    shorter = decode(bytes([VERSION]) + msgpack.packb(batch), TokenBatch)
    assert (shorter.faults, shorter.logprobs, shorter.prompt_logprobs) == (BATCH.faults, (), ())


@pytest.mark.parametrize(
    "data",
    [b"", b"\x02", bytes([VERSION]), bytes([VERSION]) + b"\xc1", bytes([VERSION, 0x81]), b"\x01\xa5hello", b"\x02\x80"],
)
def test_bytes_that_are_no_message_are_refused(data: bytes) -> None:
    with pytest.raises(MessageError):
        decode_inbound(data)


@pytest.mark.parametrize(
    ("blocks", "hashes"),
    [(pack_u32([1]), b"f" * 15), (pack_u32([1]), b""), (b"123", b"f" * 12), (pack_u32([512]), b"f" * 16)],
)
def test_a_worker_cannot_tell_of_blocks_without_hashes_or_of_blocks_that_it_has_not(
    blocks: bytes, hashes: bytes
) -> None:
    hello = msgpack.unpackb(encode(MESSAGES["worker_hello"])[1:])
    with pytest.raises(MessageError, match="blocks"):
        decode_inbound(bytes([VERSION]) + msgpack.packb(hello | {"cached": [blocks, hashes]}))


@pytest.mark.parametrize("name", ["step_plan", "worker_status", "token_batch"])
def test_a_message_of_another_kind_is_refused(name: str) -> None:
    with pytest.raises(MessageError):
        decode_inbound(encode(MESSAGES[name]))


@given(st.binary(max_size=200))
def test_no_bytes_do_anything_but_decode_or_be_refused(data: bytes) -> None:
    for kind in (StepPlan, StepResult, TokenBatch, PoolStatus, WorkerStatus):
        try:
            message = decode(bytes([VERSION]) + data, kind)
        except MessageError:
            continue
        assert isinstance(message, kind)


_u16s = st.lists(st.integers(0, 2**16 - 1), max_size=20).map(pack_u16)
_u32s = st.lists(st.integers(0, 2**32 - 1), max_size=20).map(pack_u32)
_names = st.text(max_size=20)
_i64s = st.integers(-(2**63), 2**63 - 1)
_steps = st.builds(StepId, st.integers(0, 2**53), st.integers(0, 2**64 - 1))
_samplings = st.builds(
    SamplingParams,
    temperature=st.floats(0, 2),
    seed=st.integers(0, 2**64 - 1),
    max_tokens=st.integers(1, 2**31),
    stop_token_ids=st.lists(st.integers(0, 2**32 - 1), max_size=4).map(tuple),
    logit_bias=st.lists(st.tuples(st.integers(0, 2**32 - 1), st.floats(-100, 100)), max_size=3).map(tuple),
    bad_words=st.lists(st.lists(st.integers(0, 2**32 - 1), max_size=3).map(tuple), max_size=3).map(tuple),
    logprobs=st.none() | st.integers(0, 20),
)
_spans = st.builds(
    LogprobSpan,
    handle=st.integers(0, 2**32 - 1),
    start=st.integers(0, 2**31),
    logprobs=st.builds(
        Logprobs, num_top=st.integers(0, 20), chosen=st.binary(max_size=9), ranks=_u32s, top_ids=_u32s, top=_u32s
    ),
)
_admitted = st.builds(
    Admitted,
    slot=st.integers(0, 2**16 - 1),
    request_id=_names,
    choice=st.integers(0, 127),
    gateway_id=_names,
    handle=st.integers(0, 2**32 - 1),
    num_prompt_tokens=st.integers(1, 2**31),
    num_computed_tokens=st.integers(0, 2**31),
    num_cached_tokens=st.integers(0, 2**31),
    tokens=_u32s,
    blocks=_u32s,
    sampling=_samplings,
)
_batches = st.builds(
    TokenBatch,
    gateway_id=_names,
    worker_id=_names,
    step=_steps,
    previous=_steps,
    slots=_u16s,
    tokens=_u32s,
    logprobs=st.lists(_spans, max_size=2).map(tuple),
    prompt_logprobs=st.lists(_spans, max_size=2).map(tuple),
)
_MESSAGES = st.one_of(
    st.builds(
        Submit,
        request_id=_names,
        gateway_id=_names,
        handle=st.integers(0, 2**32 - 1),
        prompt=_u32s.filter(bool),
        sampling=_samplings,
        arrived_ms=_i64s,
        told=st.lists(st.builds(Told, tokens=_u32s, is_finished=st.booleans()), max_size=3).map(tuple),
    ),
    st.builds(Cancel, request_id=_names, reason=_names),
    st.builds(StepPlan, released=_u16s, admitted=st.lists(_admitted, max_size=3).map(tuple), slots=_u16s),
    st.builds(StepResult, batches=st.lists(_batches, max_size=3).map(tuple), compute_us=st.integers(0, 2**40)),
)


@given(_MESSAGES)
def test_messages_survive_the_wire(message: Message) -> None:
    data = encode(message)
    if isinstance(message, Submit | Cancel):
        assert decode_inbound(data) == message
    else:
        assert decode(data, type(message)) == message

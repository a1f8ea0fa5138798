"""Plans as the fake runner wants them: terse, with every field at hand, right or wrong."""

from collections.abc import Iterable

from shared.ids import GatewayId, Handle, RequestId, Slot
from shared.messages import Admitted, StepPlan, WorkerCapabilities
from shared.packing import pack_u16, pack_u32
from shared.sampling import SamplingParams

CAPABILITIES = WorkerCapabilities(
    model="m", block_size=4, num_blocks=16, max_model_len=32, max_num_seqs=4, max_num_batched_tokens=16
)


def admitted(
    slot: int,
    tokens: Iterable[int],
    blocks: Iterable[int],
    *,
    request_id: str = "r",
    choice: int = 0,
    num_prompt: int | None = None,
    computed: int = 0,
    cached: int = 0,
    gateway: str = "g",
    sampling: SamplingParams | None = None,
) -> Admitted:
    tokens = list(tokens)
    return Admitted(
        slot=Slot(slot),
        request_id=RequestId(request_id),
        choice=choice,
        gateway_id=GatewayId(gateway),
        handle=Handle(100 + slot),
        tokens=pack_u32(tokens),
        num_prompt_tokens=len(tokens) if num_prompt is None else num_prompt,
        num_computed_tokens=computed,
        num_cached_tokens=cached,
        blocks=pack_u32(blocks),
        sampling=sampling or SamplingParams(max_tokens=8),
    )


def plan(
    work: dict[int, int] | None = None,
    *rows: Admitted,
    released: Iterable[int] = (),
    appended: Iterable[tuple[int, int]] = (),
    copies: Iterable[int] = (),
) -> StepPlan:
    """A plan in which `work` maps slots to the tokens they compute."""
    work, appended = work or {}, list(appended)
    return StepPlan(
        released=pack_u16(released),
        admitted=rows,
        appended_slots=pack_u16(slot for slot, _ in appended),
        appended_blocks=pack_u32(block for _, block in appended),
        copies=pack_u32(copies),
        slots=pack_u16(work),
        num_tokens=pack_u32(work.values()),
    )

"""Hand-made plans, and what comes of them: a scheduler that knows one trick."""

from collections.abc import Sequence

from gpu_worker.runner import Runner, StepOutput
from shared.ids import GatewayId, Handle, RequestId, Slot
from shared.messages import Admitted, StepPlan
from shared.packing import pack_u16, pack_u32
from shared.sampling import FinishCode, SamplingParams

GREEDY = SamplingParams(temperature=0.0, max_tokens=1_000)


def admit(
    slot: int,
    tokens: Sequence[int],
    blocks: Sequence[int],
    *,
    sampling: SamplingParams = GREEDY,
    num_computed: int = 0,
    num_prompt: int | None = None,
    choice: int = 0,
) -> Admitted:
    return Admitted(
        slot=Slot(slot),
        request_id=RequestId(f"request-{slot}"),
        choice=choice,
        gateway_id=GatewayId("gateway"),
        handle=Handle(slot),
        tokens=pack_u32(tokens),
        num_prompt_tokens=len(tokens) if num_prompt is None else num_prompt,
        num_computed_tokens=num_computed,
        num_cached_tokens=num_computed,
        blocks=pack_u32(blocks),
        sampling=sampling,
    )


def compute(
    work: dict[int, int],
    *,
    admitted: Sequence[Admitted] = (),
    released: Sequence[int] = (),
    appended: Sequence[tuple[int, int]] = (),
    copies: Sequence[tuple[int, int]] = (),
) -> StepPlan:
    """A plan in which each slot computes so many tokens."""
    return StepPlan(
        released=pack_u16(released),
        admitted=tuple(admitted),
        appended_slots=pack_u16(slot for slot, _ in appended),
        appended_blocks=pack_u32(block for _, block in appended),
        copies=pack_u32(block for pair in copies for block in pair),
        slots=pack_u16(work),
        num_tokens=pack_u32(work.values()),
    )


class Transcript:
    """Runs plans and keeps what each slot got."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self.tokens: dict[int, list[int]] = {}
        self.finishes: dict[int, FinishCode] = {}

    def run(self, plan: StepPlan) -> StepOutput:
        output = self._runner.step(plan)
        for row in output.rows:
            self.tokens.setdefault(row.slot, []).extend(row.tokens)
            self.finishes[row.slot] = row.finish
        return output

    def decode(self, slots: Sequence[int], num_steps: int) -> None:
        for _ in range(num_steps):
            self.run(compute(dict.fromkeys(slots, 1)))

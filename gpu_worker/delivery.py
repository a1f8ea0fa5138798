"""Who gets the tokens of a slot, and the shape they travel in: from a step's rows to one batch per gateway."""

from array import array
from dataclasses import dataclass, field

from gpu_worker.runner import RowOutput, StepOutput
from shared.ids import BEFORE_FIRST_STEP, GatewayId, Handle, StepId, WorkerId
from shared.messages import Admitted, Embedding, Fault, LogprobSpan, StepPlan, StepResult, TokenBatch
from shared.packing import pack_u8, pack_u16, pack_u32, unpack_u16
from shared.sampling import FinishCode

_FAULT_STATUS = 500


@dataclass(slots=True)
class _Recipient:
    """Where one slot's tokens go, and the place of the next one in its choice's output."""

    gateway_id: GatewayId
    handle: Handle
    next_index: int
    num_cached_tokens: int

    @classmethod
    def of(cls, admitted: Admitted) -> "_Recipient":
        num_tokens = len(admitted.tokens) // array("I").itemsize
        num_output_tokens = num_tokens - admitted.num_prompt_tokens
        return cls(admitted.gateway_id, admitted.handle, num_output_tokens, admitted.num_cached_tokens)


@dataclass(slots=True)
class _Draft:
    """One gateway's part of a step while it grows."""

    slots: list[int] = field(default_factory=list)
    handles: list[int] = field(default_factory=list)
    indices: list[int] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    finishes: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    cached: list[int] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    logprobs: list[LogprobSpan] = field(default_factory=list)
    prompt_logprobs: list[LogprobSpan] = field(default_factory=list)
    embeddings: list[Embedding] = field(default_factory=list)

    def add(self, recipient: _Recipient, row: RowOutput) -> None:
        self.slots.append(row.slot)
        self.handles.append(recipient.handle)
        self.indices.append(recipient.next_index)
        self.counts.append(len(row.tokens))
        self.finishes.append(row.finish)
        self.tokens.extend(row.tokens)
        if recipient.next_index == 0:
            self.cached.append(recipient.num_cached_tokens)
        if row.logprobs is not None:
            self.logprobs.append(LogprobSpan(recipient.handle, recipient.next_index, row.logprobs))
        if row.embedding is not None:
            self.embeddings.append(Embedding(recipient.handle, row.embedding))
        recipient.next_index += len(row.tokens)

    def batch(self, gateway_id: GatewayId, worker_id: WorkerId, step: StepId, previous: StepId) -> TokenBatch:
        return TokenBatch(
            gateway_id=gateway_id,
            worker_id=worker_id,
            step=step,
            previous=previous,
            slots=pack_u16(self.slots),
            handles=pack_u32(self.handles),
            indices=pack_u32(self.indices),
            counts=pack_u8(self.counts),
            finishes=pack_u8(self.finishes),
            tokens=pack_u32(self.tokens),
            cached=pack_u32(self.cached),
            faults=tuple(self.faults),
            logprobs=tuple(self.logprobs),
            prompt_logprobs=tuple(self.prompt_logprobs),
            embeddings=tuple(self.embeddings),
        )


class DeliveryBook:
    """Follows the plans of one worker name, and writes the result of each. Links each gateway's batches to one another.

    Plans and outputs are given alternately, in order: `apply(plan)`, then `result(...)` of the same plan.
    """

    def __init__(self, worker_id: WorkerId) -> None:
        self._worker_id = worker_id
        self._recipients: dict[int, _Recipient] = {}
        self._previous: dict[GatewayId, StepId] = {}

    def apply(self, plan: StepPlan) -> None:
        """Forget the slots that the plan releases, and note those it gives out."""
        for slot in unpack_u16(plan.released):
            self._recipients.pop(slot, None)
        for admitted in plan.admitted:
            self._recipients[admitted.slot] = _Recipient.of(admitted)

    def result(self, step: StepId, output: StepOutput, compute_us: int) -> StepResult:
        """The answer to the plan that was applied last."""
        drafts: dict[GatewayId, _Draft] = {}
        for row in output.rows:
            recipient = self._recipients[row.slot]
            draft = drafts.setdefault(recipient.gateway_id, _Draft())
            if row.finish is FinishCode.ERROR:
                draft.faults.append(Fault(recipient.handle, _FAULT_STATUS, row.message))
            else:
                draft.add(recipient, row)
        for slot, start, logprobs in output.prompt_logprobs:
            recipient = self._recipients[slot]
            draft = drafts.setdefault(recipient.gateway_id, _Draft())
            draft.prompt_logprobs.append(LogprobSpan(recipient.handle, start, logprobs))
        batches = []
        for gateway_id, draft in drafts.items():
            previous = self._previous.get(gateway_id, BEFORE_FIRST_STEP)
            batches.append(draft.batch(gateway_id, self._worker_id, step, previous))
            self._previous[gateway_id] = step
        return StepResult(batches=tuple(batches), compute_us=compute_us, num_tokens=output.num_tokens)

"""Faults as entries of the scheduler's own result stream, so that gateways find them as they find tokens. Pure."""

from collections.abc import Iterable
from typing import NamedTuple

from shared.ids import BEFORE_FIRST_STEP, Epoch, GatewayId, StepId, WorkerId
from shared.messages import Fault, StepResult, TokenBatch


class FaultEntry(NamedTuple):
    """One entry to emit."""

    step: StepId
    result: StepResult


class FaultWriter:
    """Numbers the entries of one leader's stream and links each gateway's batches.

    Attributes:
        writer_id: The stream's name among the workers' streams.
    """

    def __init__(self, epoch: Epoch) -> None:
        self.writer_id = WorkerId(f"s{epoch}")
        self._last_step = StepId(epoch, 0)
        self._previous: dict[GatewayId, StepId] = {}

    def entry(self, faults: Iterable[tuple[GatewayId, Fault]]) -> FaultEntry:
        """The next entry, with all of these faults."""
        self._last_step = step = self._last_step.next()
        by_gateway: dict[GatewayId, list[Fault]] = {}
        for gateway_id, fault in faults:
            by_gateway.setdefault(gateway_id, []).append(fault)
        batches = []
        for gateway_id, its_faults in by_gateway.items():
            previous = self._previous.get(gateway_id, BEFORE_FIRST_STEP)
            batches.append(TokenBatch(gateway_id, self.writer_id, step, previous, faults=tuple(its_faults)))
            self._previous[gateway_id] = step
        return FaultEntry(step, StepResult(tuple(batches)))

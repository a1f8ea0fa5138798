"""What earlier leaders left unfinished, and what is read of it in the logs. Pure."""

from collections.abc import Iterable

from scheduler_svc.leadership.recovery import CommittedOutputs
from shared.bus import Delivery
from shared.ids import GatewayId
from shared.messages import StepResult, Submit
from shared.packing import unpack_u32


class Inheritance:
    """Messages that were delivered and not finished, and the outputs of the requests among them.

    A log reaches back for minutes; most of what stands there is of requests that have ended, and is passed over.

    Attributes:
        deliveries: The messages, oldest first.
        outputs: What their clients have been told, as far as it has been read.
    """

    def __init__(self, deliveries: Iterable[Delivery]) -> None:
        self.deliveries = list(deliveries)
        self.outputs = CommittedOutputs()
        self._handles: dict[GatewayId, set[int]] = {}
        for delivery in self.deliveries:
            if isinstance(submit := delivery.message, Submit):
                handles = range(submit.handle, submit.handle + submit.sampling.n)
                self._handles.setdefault(submit.gateway_id, set()).update(handles)

    @property
    def has_requests(self) -> bool:
        """Whether there is anything to look for in the logs."""
        return bool(self._handles)

    def read(self, result: StepResult) -> None:
        """Take in an entry of a log."""
        if any(
            not handles.isdisjoint(unpack_u32(batch.handles)) or any(fault.handle in handles for fault in batch.faults)
            for batch in result.batches
            if (handles := self._handles.get(batch.gateway_id))
        ):
            self.outputs.add([result])

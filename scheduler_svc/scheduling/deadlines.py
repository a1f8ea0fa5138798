"""Which requests nobody waits for any more. Pure: the time is an argument."""

import heapq

from scheduler_svc.scheduling.request import Request
from scheduler_svc.scheduling.sequence import Sequence
from shared.ids import RequestId
from shared.messages import Fault, Submit

EXPIRED_STATUS = 504
EXPIRED_CODE = "deadline_exceeded"


class Deadlines:
    """The requests that have one, the next first. Those that end before are forgotten when their time comes."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, RequestId]] = []

    def add(self, submit: Submit) -> None:
        """Remember a request's deadline, if it has one."""
        if submit.deadline_ms:
            heapq.heappush(self._heap, (submit.deadline_ms, submit.request_id))

    def take_expired(self, now_ms: int) -> list[RequestId]:
        """Those whose time has come, once. Some of them have ended long ago."""
        expired = []
        while self._heap and self._heap[0][0] <= now_ms:
            expired.append(heapq.heappop(self._heap)[1])
        return expired


def expiry_fault(request: Request, sequence: Sequence) -> Fault:
    """What a choice is told whose request's deadline has passed."""
    allowed_ms = request.submit.deadline_ms - request.submit.arrived_ms
    state = f"it had {sequence.num_output_tokens} output tokens" if sequence.was_admitted else "it waited for a worker"
    return Fault(
        sequence.handle, EXPIRED_STATUS, f"The deadline of {allowed_ms} ms passed while {state}.", EXPIRED_CODE
    )

"""What a dead worker leaves behind: whom it had yet to answer for, and what is said of the one that killed it. Pure."""

from collections.abc import Mapping

from scheduler_svc.quarantine.quarantine import AtRisk
from scheduler_svc.scheduling.request import Request
from scheduler_svc.scheduling.sequence import Sequence
from scheduler_svc.scheduling.worker import Worker
from shared.dead_letters import Case, Cause, DeadLetter
from shared.ids import RequestId
from shared.messages import Fault, encode

POISON_STATUS = 500
POISON_CODE = "request_failed_repeatedly"


def at_risk(worker: Worker, requests: Mapping[RequestId, Request]) -> list[AtRisk]:
    """The live requests that unanswered plans name, in the order of these plans. The worker's log has been read.

    A choice gets past when it has told as many tokens as these plans would have brought: one for each, or the first
    one if they computed its prompt.
    """
    num_plans: dict[Sequence, int] = {}
    for record in worker.in_flight.values():
        for row in record.rows.values():
            if not row.sequence.is_finished:
                num_plans[row.sequence] = num_plans.get(row.sequence, 0) + 1
    clears_at: dict[RequestId, dict[int, int]] = {}
    for sequence, count in num_plans.items():
        clears_at.setdefault(sequence.request_id, {})[sequence.choice] = sequence.num_output_tokens + count
    return [AtRisk(request, _num_output_tokens(requests[request]), targets) for request, targets in clears_at.items()]


def poison_fault(sequence: Sequence) -> Fault:
    """What a choice is told of a request that was given up."""
    message = (
        "Every worker that computed this request died, the last one while it computed nothing else. It is not tried "
        "again; the server keeps it for its operator."
    )
    return Fault(sequence.handle, POISON_STATUS, message, POISON_CODE)


def dead_letter(request: Request, case: Case, *, at_ms: int) -> DeadLetter:
    """The request and its history, for a person to look at."""
    return DeadLetter(
        cause=Cause.KILLS_WORKERS,
        source=request.entry,
        message=encode(request.submit),
        reason=f"{len(case.deaths)} workers died while they computed it, the last one while it computed nothing else",
        at_ms=at_ms,
        request_id=request.submit.request_id,
        gateway_id=request.submit.gateway_id,
        deaths=case.deaths,
    )


def _num_output_tokens(request: Request) -> int:
    return sum(sequence.num_output_tokens for sequence in request.sequences)

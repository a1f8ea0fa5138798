"""Carries a quarantine's decisions out: who may run where, which worker is cleared for a trial, who is guilty. Pure."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from scheduler_svc.quarantine.autopsy import at_risk, dead_letter
from scheduler_svc.quarantine.quarantine import Quarantine
from scheduler_svc.scheduling.outcomes import Outcomes
from scheduler_svc.scheduling.request import Request
from scheduler_svc.scheduling.sequence import Sequence
from scheduler_svc.scheduling.worker import Worker
from shared.dead_letters import Case
from shared.ids import RequestId, WorkerId


class Clearing(NamedTuple):
    """A worker that is needed for suspects, and the running sequences that must leave it."""

    worker: Worker
    sequences: list[Sequence]


class Isolation:
    """A quarantine among these workers and requests, whose owner the scheduler is."""

    def __init__(self, workers: Mapping[WorkerId, Worker], requests: Mapping[RequestId, Request]) -> None:
        self._workers = workers
        self._requests = requests
        self._quarantine = Quarantine()

    def may_run(self, sequence: Sequence, worker: Worker) -> bool:
        """Whether a worker may take on a sequence."""
        return self._quarantine.may_run(sequence.request_id, worker.worker_id)

    def eligible(self, waiting: Iterable[Sequence], worker: Worker) -> Iterable[Sequence]:
        """Who of the waiting may run on a worker, in order."""
        if not self._quarantine.is_active:
            return waiting
        if self._quarantine.is_on_trial(worker.worker_id):
            rows = (row.sequence for record in worker.in_flight.values() for row in record.rows.values())
            if not all(self.may_run(sequence, worker) for sequence in rows):
                return ()  # its last plans are still about others
        return [sequence for sequence in waiting if self.may_run(sequence, worker)]

    def begin_trial(self) -> Clearing | None:
        """If a group of suspects waits: the worker it gets, of those that hold most the one that runs least."""
        able = [worker for worker in self._workers.values() if not worker.is_suspended]
        if not self._quarantine.wants_worker or not able:
            return None
        worker = min(able, key=lambda worker: (-worker.capabilities.max_model_len, len(worker.running)))
        self._quarantine.begin_trial(worker.worker_id)
        return Clearing(worker, [sequence for sequence in worker.running if not self.may_run(sequence, worker)])

    def worker_left(self, worker: Worker) -> None:
        """A worker went on purpose."""
        self._quarantine.worker_left(worker.worker_id)

    def worker_died(self, worker: Worker, death: str, outcomes: Outcomes, *, now_ms: int) -> Request | None:
        """Suspect whoever a dead worker had yet to answer for. Returns the request that surely killed it, if any."""
        suspects = at_risk(worker, self._requests)
        guilty = self._quarantine.worker_died(worker.worker_id, suspects, at_ms=now_ms, reason=death)
        for suspect in suspects:
            request = self._requests[suspect.request_id]
            if suspect.request_id == guilty:
                case = self._quarantine.cases[guilty]
                outcomes.letters[request.entry] = dead_letter(request, case, at_ms=now_ms)
                return request
            outcomes.cases[request.entry] = self._quarantine.cases[suspect.request_id]
        return None

    def resume(self, request: Request, case: Case) -> None:
        """Go on with what an earlier leader held against a request."""
        self._quarantine.resume(request.submit.request_id, case)

    def refile(self, request: Request, outcomes: Outcomes) -> None:
        """A request has another entry: what is held against it is kept beside that one."""
        if case := self._quarantine.cases.get(request.submit.request_id):
            outcomes.cases[request.entry] = case

    def review(self) -> None:
        """Look which suspects have got past what they are suspected of. Costs nothing while there are none."""
        self._quarantine.clear(self._num_outputs)

    def forget(self, request: Request) -> None:
        """A request has ended."""
        self._quarantine.forget(request.submit.request_id)

    def check(self) -> None:
        """Assert the invariants."""
        self._quarantine.check()
        assert self._quarantine.trial is None or self._quarantine.trial.worker_id in self._workers
        assert self._quarantine.cases.keys() <= self._requests.keys()

    def _num_outputs(self, request_id: RequestId) -> dict[int, int]:
        sequences = self._requests[request_id].sequences
        return {sequence.choice: sequence.num_output_tokens for sequence in sequences if not sequence.is_finished}

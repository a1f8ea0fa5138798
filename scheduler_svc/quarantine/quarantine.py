"""Which requests kill workers, found out by letting suspects run apart. Pure: deaths and progress in, who may run out.

A worker died and left plans unanswered. Any request that they name may have killed it, and mostly none has.

1. One death says nothing: machines die. Its suspects go on among all others.
2. A suspect gets past a death by telling the tokens that the unanswered plans would have brought.
3. Who is suspected twice without having got past is held, together with whoever is held for the same death.
4. One group at a time runs, on a worker that computes nothing else. If the worker dies, the group is halved.
5. Who kills a worker that computes for nobody else, while held, is guilty.

So one of n requests that kills every worker is found by at most 2 + ceil(log2 n) deaths; only suspects ever wait for
that, and each only until the groups before its own have told a few tokens.
"""

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, NamedTuple

import msgspec

from shared.dead_letters import Case, Death
from shared.ids import RequestId, WorkerId

DEATHS_UNTIL_HELD: Final = 2


class AtRisk(NamedTuple):
    """One request that a dead worker had yet to answer for.

    Attributes:
        num_output_tokens: Told so far, over all choices.
        clears_at: By choice that the worker computed, its output tokens once all unanswered plans were made up for.
    """

    request_id: RequestId
    num_output_tokens: int
    clears_at: Mapping[int, int]


class Trial(NamedTuple):
    """A group that runs, and the worker it has for itself."""

    worker_id: WorkerId
    members: set[RequestId]


class Quarantine:
    """Cases of suspects, the groups of those that are held, and the trial of one of them.

    Invariants, checked by `check`: a request is in one group at most, or on trial; those requests, and no others, have
    `DEATHS_UNTIL_HELD` open deaths or more; no group is empty.

    Attributes:
        cases: Of all live requests that ever were suspects.
        trial: The one under way.
    """

    def __init__(self) -> None:
        self.cases: dict[RequestId, Case] = {}
        self.trial: Trial | None = None
        self._groups: deque[list[RequestId]] = deque()
        self._held: set[RequestId] = set()

    @property
    def is_active(self) -> bool:
        """Whether anybody is held."""
        return bool(self._held)

    @property
    def wants_worker(self) -> bool:
        """Whether a group waits and could be tried now."""
        return self.trial is None and bool(self._groups)

    def is_on_trial(self, worker_id: WorkerId) -> bool:
        """Whether a worker has a group of suspects, and computes for nobody else."""
        return self.trial is not None and self.trial.worker_id == worker_id

    def may_run(self, request_id: RequestId, worker_id: WorkerId) -> bool:
        """Whether a worker may take on a request."""
        if self.trial is not None and self.is_on_trial(worker_id):
            return request_id in self.trial.members
        return request_id not in self._held

    def resume(self, request_id: RequestId, case: Case) -> None:
        """Go on with what an earlier leader held against a request. All that it held form one group."""
        self.cases[request_id] = case
        if case.num_open >= DEATHS_UNTIL_HELD:
            self._hold([*(self._groups.pop() if self._groups else ()), request_id])

    def begin_trial(self, worker_id: WorkerId) -> None:
        """Give a worker to the group that waits for longest. It must compute nothing else from now on."""
        assert self.wants_worker
        self.trial = Trial(worker_id, set(self._groups.popleft()))

    def worker_died(
        self, worker_id: WorkerId, at_risk: Sequence[AtRisk], *, at_ms: int, reason: str
    ) -> RequestId | None:
        """Suspect all whom the worker had yet to answer for.

        Returns:
            The one that is guilty, if that is certain. It is not held any more, but to be ended and forgotten.
        """
        for suspect in at_risk:
            death = Death(worker_id, at_ms, reason, len(at_risk), suspect.num_output_tokens)
            case = self.cases.get(suspect.request_id, Case())
            clears_at = {**case.clears_at, **suspect.clears_at}
            self.cases[suspect.request_id] = Case((*case.deaths, death), case.num_open + 1, clears_at)
        suspects = [
            suspect.request_id for suspect in at_risk if self.cases[suspect.request_id].num_open >= DEATHS_UNTIL_HELD
        ]
        was_tried = self._end_trial(worker_id)
        guilty = suspects[0] if len(at_risk) == len(suspects) == 1 and suspects[0] in was_tried else None
        self._release(suspects)
        if guilty is not None:
            return guilty
        half = (len(suspects) + 1) // 2
        for group in (suspects[half:], suspects[:half]):
            self._hold(group, is_next=bool(was_tried))
        return None

    def worker_left(self, worker_id: WorkerId) -> None:
        """A worker went on purpose: if a group was on trial there, it waits for another worker."""
        self._end_trial(worker_id)

    def clear(self, num_outputs: Callable[[RequestId], Mapping[int, int]]) -> None:
        """Look who has got past the deaths it is suspected of.

        Args:
            num_outputs: By choice that has not ended, output tokens told.
        """
        for request_id, case in self.cases.items():
            if case.num_open and _is_past(case, num_outputs(request_id)):
                self.cases[request_id] = msgspec.structs.replace(case, num_open=0, clears_at={})
                self._release([request_id])

    def forget(self, request_id: RequestId) -> None:
        """A request has ended."""
        if self.cases.pop(request_id, None) is not None:
            self._release([request_id])

    def check(self) -> None:
        """Assert the invariants."""
        groups = [*self._groups, *([list(self.trial.members)] if self.trial else [])]
        members = [request for group in groups for request in group]
        assert all(groups)
        assert len(members) == len(self._held)
        assert set(members) == self._held
        assert self._held == {r for r, case in self.cases.items() if case.num_open >= DEATHS_UNTIL_HELD}

    def _end_trial(self, worker_id: WorkerId) -> set[RequestId]:
        """If it was on this worker: its members form the first group again, and are returned."""
        trial = self.trial
        if trial is None or trial.worker_id != worker_id:
            return set()
        self.trial = None
        self._groups.appendleft(sorted(trial.members))
        return trial.members

    def _hold(self, group: Iterable[RequestId], *, is_next: bool = False) -> None:
        members = list(group)
        if not members:
            return
        self._held.update(members)
        if is_next:
            self._groups.appendleft(members)
        else:
            self._groups.append(members)

    def _release(self, requests: Iterable[RequestId]) -> None:
        released = self._held.intersection(requests)
        if not released:
            return
        self._held -= released
        rest = ([member for member in group if member not in released] for group in self._groups)
        self._groups = deque(group for group in rest if group)
        if self.trial is not None:
            self.trial.members.difference_update(released)
            if not self.trial.members:
                self.trial = None


def _is_past(case: Case, num_outputs: Mapping[int, int]) -> bool:
    return all(num_outputs.get(choice, target) >= target for choice, target in case.clears_at.items())

"""What an earlier leader left: how far each of its requests had come, read from the logs of committed tokens. Pure."""

from collections.abc import Iterable
from itertools import takewhile

from scheduler_svc.progress import Progress
from shared.ids import GatewayId, Handle
from shared.messages import StepResult, Submit
from shared.packing import unpack_u32
from shared.sampling import FinishCode


class CommittedOutputs:
    """Tokens told to clients, by gateway and handle, put together from all result streams of a pool.

    The streams may be read in any order: an index in a choice's output is committed once, whatever worker computed it,
    because a worker's stream is sealed and drained before its sequences move on.
    """

    def __init__(self) -> None:
        self._tokens: dict[tuple[GatewayId, Handle], dict[int, int]] = {}
        self._cached: dict[tuple[GatewayId, Handle], int] = {}
        self._ended: set[tuple[GatewayId, Handle]] = set()

    def add(self, results: Iterable[StepResult]) -> None:
        """Take in entries of a result stream."""
        for result in results:
            for batch in result.batches:
                tokens, cached = iter(unpack_u32(batch.tokens)), iter(unpack_u32(batch.cached))
                items = zip(
                    unpack_u32(batch.handles), unpack_u32(batch.indices), batch.counts, batch.finishes, strict=True
                )
                for handle, index, count, finish in items:
                    key = (batch.gateway_id, Handle(handle))
                    known = self._tokens.setdefault(key, {})
                    if index == 0:
                        self._cached[key] = next(cached, 0)
                    for offset in range(count):
                        known[index + offset] = next(tokens)
                    if finish != FinishCode.RUNNING:
                        self._ended.add(key)
                self._ended.update((batch.gateway_id, fault.handle) for fault in batch.faults)

    def progress_of(self, submit: Submit) -> dict[int, Progress]:
        """By choice, what a request's client has been told."""
        progress = {}
        for choice in range(submit.sampling.n):
            key = (submit.gateway_id, Handle(submit.handle + choice))
            known = self._tokens.get(key, {})
            output = tuple(known[index] for index in takewhile(known.__contains__, range(len(known))))
            has_ended = key in self._ended and len(output) == len(known)  # what follows a gap is computed again
            if output or has_ended:
                progress[choice] = Progress(output, has_ended, self._cached.get(key, 0))
        return progress

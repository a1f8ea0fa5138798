"""How far each request has come: by the logs of committed tokens, and by what gateways say they have told. Pure."""

from collections.abc import Iterable, Sequence

from scheduler_svc.scheduling.progress import Progress
from shared.ids import GatewayId, Handle
from shared.messages import StepResult, Submit, Told
from shared.packing import unpack_u32
from shared.sampling import FinishCode


class CommittedOutputs:
    """Tokens told to clients, by gateway and handle, put together from all result streams of a pool.

    The streams may be read in any order: an index in a choice's output is committed once, whatever worker computed it,
    because a worker's stream is sealed and drained before its sequences move on.
    """

    def __init__(self) -> None:
        self._tokens: dict[tuple[GatewayId, Handle], dict[int, int]] = {}
        self._lengths: dict[tuple[GatewayId, Handle], int] = {}
        self._cached: dict[tuple[GatewayId, Handle], int] = {}
        self._failed: set[tuple[GatewayId, Handle]] = set()

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
                        self._lengths[key] = index + count
                self._failed.update((batch.gateway_id, fault.handle) for fault in batch.faults)

    def progress_of(self, submit: Submit) -> dict[int, Progress]:
        """By choice, what a request's client has been told: the logs' word, and beyond or against it the gateway's."""
        progress = {}
        for choice, told in enumerate(_told(submit)):
            key = (submit.gateway_id, Handle(submit.handle + choice))
            output = self._output(key, unpack_u32(told.tokens))
            is_finished = told.is_finished or key in self._failed or self._lengths.get(key) == len(output)
            if output or is_finished:
                progress[choice] = Progress(output, is_finished, self._cached.get(key, 0))
        return progress

    def _output(self, key: tuple[GatewayId, Handle], told: Sequence[int]) -> tuple[int, ...]:
        """The tokens without a hole from the first on: Redis may have lost some, and hold others than were told."""
        known = self._tokens.get(key, {})
        output = list(told)
        if all(known.get(index, token) == token for index, token in enumerate(told)):
            while len(output) in known:
                output.append(known[len(output)])
        return tuple(output)


def _told(submit: Submit) -> tuple[Told, ...]:
    """Of each choice; nothing of a request that comes for the first time."""
    return submit.told if len(submit.told) == submit.sampling.n else (Told(),) * submit.sampling.n

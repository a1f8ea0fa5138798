"""How far each request has come: by logs, by what was kept beside them, and by what gateways have told. Pure."""

from collections.abc import Iterable, Mapping, Sequence

from scheduler_svc.scheduling.progress import Progress
from shared.ids import Handle
from shared.kept_outputs import KeptOutput, OutputAddress, addresses_of
from shared.messages import StepResult, Submit, Told
from shared.packing import unpack_u32
from shared.sampling import FinishCode


class CommittedOutputs:
    """Tokens told to clients, by their outputs' addresses, put together from all result streams of a pool.

    The streams may be read in any order: an index in a choice's output is committed once, whatever worker computed it,
    because a worker's stream is sealed and drained before its sequences move on.
    """

    def __init__(self) -> None:
        self._tokens: dict[OutputAddress, dict[int, int]] = {}
        self._lengths: dict[OutputAddress, int] = {}
        self._cached: dict[OutputAddress, int] = {}
        self._failed: set[OutputAddress] = set()

    def add(self, results: Iterable[StepResult]) -> None:
        """Take in entries of a result stream."""
        for result in results:
            for batch in result.batches:
                tokens, cached = iter(unpack_u32(batch.tokens)), iter(unpack_u32(batch.cached))
                items = zip(
                    unpack_u32(batch.handles), unpack_u32(batch.indices), batch.counts, batch.finishes, strict=True
                )
                for handle, index, count, finish in items:
                    address = OutputAddress(batch.gateway_id, Handle(handle))
                    known = self._tokens.setdefault(address, {})
                    if index == 0:
                        self._cached[address] = next(cached, 0)
                    for offset in range(count):
                        known[index + offset] = next(tokens)
                    if finish != FinishCode.RUNNING:
                        self._lengths[address] = index + count
                self._failed.update(OutputAddress(batch.gateway_id, fault.handle) for fault in batch.faults)

    def progress_of(self, submit: Submit, kept: Sequence[bytes] = ()) -> dict[int, Progress]:
        """By choice, what a request's client has been told: the gateway's word counts beyond the logs', and against it.

        Args:
            submit: As the gateway has sent it.
            kept: By choice, what was kept of its output beside the logs.
        """
        progress = {}
        parts = kept or (b"",) * submit.sampling.n
        for choice, (address, told, part) in enumerate(zip(addresses_of(submit), _told(submit), parts, strict=True)):
            found = self._found(address, told, KeptOutput.read(part))
            if found.output or found.is_finished:
                progress[choice] = found
        return progress

    def _found(self, address: OutputAddress, told: Told, kept: KeptOutput) -> Progress:
        """The tokens without a hole from the first on. Redis may have lost some, and hold others than were told."""
        known = self._tokens.get(address, {})
        output = list(unpack_u32(told.tokens))
        if _agree(output, known):
            if _agree(output, dict(enumerate(kept.tokens))) and _agree(kept.tokens, known):
                output += kept.tokens[len(output) :]
            while len(output) in known:
                output.append(known[len(output)])
        num_kept = len(kept.tokens)
        is_kept = output[:num_kept] == list(kept.tokens)
        is_ended = self._lengths.get(address) == len(output) or (kept.is_ended and is_kept and len(output) == num_kept)
        return Progress(
            tuple(output),
            is_finished=told.is_finished or address in self._failed or is_ended,
            num_cached_tokens=self._cached.get(address, 0),
            num_kept_tokens=num_kept if is_kept else 0,
        )


def _agree(output: Sequence[int], known: Mapping[int, int]) -> bool:
    """Whether what is known says nothing else."""
    return all(known.get(index, token) == token for index, token in enumerate(output))


def _told(submit: Submit) -> tuple[Told, ...]:
    """Of each choice; nothing of a request that comes for the first time."""
    return submit.told if len(submit.told) == submit.sampling.n else (Told(),) * submit.sampling.n

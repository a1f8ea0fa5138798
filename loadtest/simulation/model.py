"""The simulated model: what a request must be answered, and a runner that finds it step by step.

Token i depends on two things that a worker keeps beside a sequence and must replay when it goes on with one: a state
that moves with every token, as a grammar's does, and how often each token came, as penalties count it.
"""

from collections.abc import Iterable
from typing import Final
from zlib import crc32

from gpu_worker.fake_runner import FakeRow, FakeRunner
from shared.ids import RequestId
from shared.messages import Admitted, Submit, WorkerCapabilities
from shared.packing import unpack_u32
from shared.sampling import FinishCode

STOP: Final = 2
_FIRST_TOKEN: Final = 64
_NUM_TOKENS: Final = 1000
_MASK: Final = 2**32 - 1


class Replayed:
    """What a sequence's output has led to."""

    def __init__(self, request_id: RequestId, choice: int, output: Iterable[int] = ()) -> None:
        self._state = crc32(f"{request_id}/{choice}".encode())
        self._counts: dict[int, int] = {}
        for token in output:
            self.push(token)

    def push(self, token: int) -> None:
        """A token has been added."""
        self._state = (self._state * 1_000_003 ^ token * 7919) & _MASK
        self._counts[token] = self._counts.get(token, 0) + 1

    def next_token(self) -> int:
        """The likeliest token that has not come yet; half of the states have a favourite."""
        token = _FIRST_TOKEN + (self._state >> 8) % 8 if self._state & 1 else _FIRST_TOKEN + self._state % _NUM_TOKENS
        while token in self._counts:
            token += 1
        return token


def length_of(request_id: RequestId, choice: int) -> int:
    """Where an output that may stop by itself does."""
    return 1 + crc32(f"{request_id}:{choice}".encode()) % 7


def expected_output(submit: Submit, choice: int, max_model_len: int) -> tuple[list[int], FinishCode]:
    """What a choice must be told in the end, and how it ends."""
    sampling = submit.sampling
    num_prompt_tokens = len(unpack_u32(submit.prompt))
    limit = min(sampling.max_tokens, max_model_len - num_prompt_tokens)
    stop_at = length_of(submit.request_id, choice) if sampling.stop_token_ids else limit + 1
    replayed, output = Replayed(submit.request_id, choice), list[int]()
    while len(output) < limit:
        if len(output) + 1 == stop_at:
            return [*output, STOP], FinishCode.STOP
        output.append(replayed.next_token())
        replayed.push(output[-1])
    return output, FinishCode.LENGTH


class ReplayingRunner(FakeRunner):
    """A `FakeRunner` whose tokens depend on those before them. It checks every plan."""

    def __init__(self, capabilities: WorkerCapabilities) -> None:
        self._replayed: dict[int, Replayed] = {}
        super().__init__(capabilities, length=length_of)

    def reset(self) -> None:
        """Forget everything."""
        super().reset()
        self._replayed = {}

    def _admit(self, admitted: Admitted) -> None:
        super()._admit(admitted)
        self._replayed[admitted.slot] = self._replay(admitted)

    def _replay(self, admitted: Admitted) -> Replayed:
        output = unpack_u32(admitted.tokens)[admitted.num_prompt_tokens :]
        return Replayed(admitted.request_id, admitted.choice, output)

    def _next_token(self, row: FakeRow) -> int:
        replayed = self._replayed[row.slot]
        token = replayed.next_token()
        replayed.push(token)
        return token

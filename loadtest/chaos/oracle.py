"""What each answer should have been. Knows nothing of the pool: the truth comes from elsewhere."""

from collections.abc import Iterable
from typing import NamedTuple, Protocol

from gateway.tokenizers.tokenizer import Tokenizer
from gpu_worker.fake_logprobs import fake_logprobs
from gpu_worker.fake_runner import fake_token
from loadtest.chaos.answer import Answer
from shared.ids import RequestId
from shared.packing import unpack_f32

_FAKE_VOCAB_SIZE = 32_000


class Truth(NamedTuple):
    """One choice as it should be."""

    token_ids: tuple[int, ...]
    text: str
    finish_reason: str
    logprobs: tuple[float, ...] = ()


class Oracle(Protocol):
    """Knows what is right."""

    def truth(self, answer: Answer) -> list[Truth]:
        """Of each choice of what was asked."""


class FunctionOracle:
    """For fake workers: token i of a choice is a function of the request's id, the choice and i.

    Args:
        tokenizer: The gateway's, to know the text.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def truth(self, answer: Answer) -> list[Truth]:
        """See `Oracle`."""
        return [self._choice(answer, choice) for choice in range(answer.request.num_choices)]

    def _choice(self, answer: Answer, choice: int) -> Truth:
        name, count = RequestId(answer.request_id), answer.request.max_tokens
        tokens = tuple(fake_token(name, choice, place, _FAKE_VOCAB_SIZE) for place in range(count))
        logprobs: tuple[float, ...] = ()
        if "logprobs" in answer.request.body:
            logprobs = tuple(unpack_f32(fake_logprobs(tokens, 0, _FAKE_VOCAB_SIZE).chosen))
        return Truth(tokens, self._tokenizer.decode(tokens), "length", logprobs)


class RecordedOracle:
    """For a model: what the same requests were answered while nothing failed."""

    def __init__(self, answers: Iterable[Answer]) -> None:
        self._truths = {
            answer.request.number: [
                Truth(tuple(choice.token_ids), choice.text, choice.finish_reason or "", tuple(choice.logprobs))
                for choice in answer.choices
            ]
            for answer in answers
        }

    def truth(self, answer: Answer) -> list[Truth]:
        """See `Oracle`."""
        return self._truths[answer.request.number]

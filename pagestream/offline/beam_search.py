"""Beam search above the engine: each step asks for one more token of every beam. Names are vLLM's. Pure."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from math import pow  # noqa: A004 - the operator's type is Any
from numbers import Integral, Real
from typing import Final

from pagestream.offline.argument_checks import Range
from pagestream.offline.outputs import Logprob
from pagestream.offline.prompts import Prompt

_RANGES: Final[Mapping[str, Range]] = {
    "beam_width": Range(Integral, 1),
    "max_tokens": Range(Integral, 1),
    "temperature": Range(Real, 0, 2),
    "length_penalty": Range(Real),
}


@dataclass(slots=True)
class BeamSearchParams:
    """How to search.

    Attributes:
        beam_width: Sequences kept at each step, and given in the end.
        max_tokens: Output tokens at most.
        ignore_eos: Go on after the model's own end tokens.
        temperature: Has no effect: the model's own log-probabilities count. Taken for vLLM's sake.
        length_penalty: A sequence's score is its log-probability over its length to this power.
        include_stop_str_in_output: Has no effect: there are no stop strings. Taken for vLLM's sake.
    """

    beam_width: int
    max_tokens: int
    ignore_eos: bool = False
    temperature: float = 0.0
    length_penalty: float = 1.0
    include_stop_str_in_output: bool = False

    def __post_init__(self) -> None:
        self.verify()

    def verify(self) -> None:
        """Check every field.

        Raises:
            InvalidArgumentError: one has a value that it cannot have.
        """
        for name, numbers in _RANGES.items():
            numbers.check(name, getattr(self, name))


@dataclass(slots=True)
class BeamSearchSequence:
    """One sequence.

    Attributes:
        tokens: The prompt included.
        logprobs: For each output token, the likeliest ones and itself.
        cum_logprob: Of all output tokens.
        text: Of all tokens.
        finish_reason: "stop" after an end token, else "length".
    """

    tokens: list[int]
    logprobs: list[dict[int, Logprob]] = field(default_factory=list)
    cum_logprob: float = 0.0
    text: str | None = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None


@dataclass(slots=True)
class BeamSearchOutput:
    """The best sequences of one prompt, the best first."""

    sequences: list[BeamSearchSequence]


class BeamSearch:
    """The search for one prompt.

    Attributes:
        beams: Sequences that go on, the best first; all of one length.
        cache_salt: The prompt's.
    """

    def __init__(self, prompt: Prompt, params: BeamSearchParams, *, end_tokens: Collection[int]) -> None:
        """Start with the prompt.

        Args:
            prompt: What is continued.
            params: How to search.
            end_tokens: Those that end a sequence.
        """
        self.beams = [BeamSearchSequence(prompt.token_ids)]
        self.cache_salt = prompt.cache_salt
        self._params = params
        self._end_tokens = frozenset() if params.ignore_eos else frozenset(end_tokens)
        self._finished: list[BeamSearchSequence] = []

    def extend(self, likeliest: Sequence[Mapping[int, Logprob]]) -> None:
        """Go on by one token.

        Args:
            likeliest: For each beam, at least 2 x beam_width tokens that may follow it.
        """
        candidates = []
        for beam, tokens in zip(self.beams, likeliest, strict=True):
            for token, told in tokens.items():
                longer = BeamSearchSequence(
                    [*beam.tokens, token], [*beam.logprobs, dict(tokens)], beam.cum_logprob + told.logprob
                )
                if token in self._end_tokens:
                    longer.finish_reason = "stop"
                    self._finished.append(longer)
                else:
                    candidates.append(longer)
        self.beams = self._best(candidates)

    def output(self) -> BeamSearchOutput:
        """The best that were found; beams that have not ended are cut off."""
        for beam in self.beams:
            beam.finish_reason = "length"
        return BeamSearchOutput(self._best([*self._finished, *self.beams]))

    def _best(self, sequences: list[BeamSearchSequence]) -> list[BeamSearchSequence]:
        return sorted(sequences, key=self._score, reverse=True)[: self._params.beam_width]

    def _score(self, sequence: BeamSearchSequence) -> float:
        """As vLLM's: the prompt counts, an end token does not."""
        length = len(sequence.tokens) - (sequence.tokens[-1] in self._end_tokens)
        return sequence.cum_logprob / pow(length, self._params.length_penalty)

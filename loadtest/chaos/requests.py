"""What is asked of the pool: a mixture of all that makes one answer differ from another, the same for the same seed."""

import random
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from loadtest.chaos.scenario import Scenario

_PROMPT_TOKENS: Final = (1, 200)
_FIRST_TOKEN, _LAST_TOKEN = 100, 40_000
_NUM_PREFIXES: Final = 4
_PREFIX_TOKENS: Final = 64
_SCHEMA: Final = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 24},
        "age": {"type": "integer"},
        "tags": {"type": "array", "items": {"enum": ["red", "green", "blue"]}, "maxItems": 4},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}


class ChaosRequest(NamedTuple):
    """One request.

    Attributes:
        number: The same number is the same request, in every run of a scenario.
        kind: What is special about it.
        path: Where it is sent.
    """

    number: int
    kind: str
    path: str
    body: Mapping[str, object]

    @property
    def num_choices(self) -> int:
        """How many answers it wants."""
        n = self.body.get("n", 1)
        assert isinstance(n, int)
        return n

    @property
    def max_tokens(self) -> int:
        """Of each answer."""
        limit = self.body["max_tokens"]
        assert isinstance(limit, int)
        return limit


class RequestSource:
    """Hands out requests one after another; after `num_requests` of them it begins again."""

    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        self._num_taken = 0

    def take(self) -> ChaosRequest:
        """The next one."""
        number = self._num_taken
        self._num_taken += 1
        if self._scenario.num_requests is not None:
            number %= self._scenario.num_requests
        return self.make(number)

    def make(self, number: int) -> ChaosRequest:
        """The one with this number."""
        # A seed is hashed, so that near ones have nothing in common.
        chance = random.Random(f"{self._scenario.seed}/{number}")
        kind = list(_KINDS)[number % len(_KINDS)]
        path, special = _KINDS[kind](chance)
        common: dict[str, object] = {
            "model": "demo",
            "stream": True,
            "stream_options": {"include_usage": True},
            "return_token_ids": True,
            "seed": chance.randrange(2**63),
            "max_tokens": chance.randint(*self._scenario.max_tokens),
        }
        return ChaosRequest(number, kind, path, common | special)


def _completion(chance: random.Random, **special: object) -> tuple[str, dict[str, object]]:
    return "/v1/completions", {"prompt": _prompt(chance), "ignore_eos": True, **special}


def _prompt(chance: random.Random) -> list[int]:
    """Some share a prefix with others, so that blocks are shared."""
    own = [chance.randrange(_FIRST_TOKEN, _LAST_TOKEN) for _ in range(chance.randint(*_PROMPT_TOKENS))]
    which = chance.randrange(2 * _NUM_PREFIXES)
    if which >= _NUM_PREFIXES:
        return own
    shared = random.Random(which)
    return [shared.randrange(_FIRST_TOKEN, _LAST_TOKEN) for _ in range(_PREFIX_TOKENS)] + own


def _greedy(chance: random.Random) -> tuple[str, dict[str, object]]:
    return _completion(chance, temperature=0)


def _sampled(chance: random.Random) -> tuple[str, dict[str, object]]:
    return _completion(chance, temperature=chance.uniform(0.3, 1.2), top_p=0.95, top_k=50)


def _penalized(chance: random.Random) -> tuple[str, dict[str, object]]:
    return _completion(
        chance, temperature=0.8, presence_penalty=0.6, frequency_penalty=0.4, repetition_penalty=1.1, min_p=0.02
    )


def _twofold(chance: random.Random) -> tuple[str, dict[str, object]]:
    return _completion(chance, temperature=0.9, n=2)


def _scored(chance: random.Random) -> tuple[str, dict[str, object]]:
    return _completion(chance, temperature=0, logprobs=2)


def _chat(chance: random.Random) -> tuple[str, dict[str, object]]:
    question = f"Tell me about the number {chance.randrange(10**6)}."
    return "/v1/chat/completions", {
        "messages": [{"role": "user", "content": question}],
        "temperature": 0.7,
        "ignore_eos": True,
    }


def _structured(chance: random.Random) -> tuple[str, dict[str, object]]:
    question = f"Invent person number {chance.randrange(10**6)}, as JSON."
    return "/v1/chat/completions", {
        "messages": [{"role": "user", "content": question}],
        "temperature": 0.7,
        "response_format": {"type": "json_schema", "json_schema": {"name": "person", "schema": _SCHEMA}},
    }


_KINDS: Final[Mapping[str, Callable[[random.Random], tuple[str, dict[str, object]]]]] = {
    "greedy": _greedy,
    "sampled": _sampled,
    "penalties": _penalized,
    "n = 2": _twofold,
    "log-probabilities": _scored,
    "chat": _chat,
    "JSON schema": _structured,
}

"""How much is let in at a time, before anything of it is read. Pure."""

import math
from collections import Counter
from collections.abc import Callable
from typing import Final, NamedTuple

from gateway.access.keyring import ApiKey
from shared.errors import QueueFullError

BYTES_PER_TOKEN: Final = 4
"""About what a token of text has."""

_LONGEST_RETRY_S: Final = 60


class Load(NamedTuple):
    """What one call weighs.

    Attributes:
        num_bytes: Of its body, as announced; the most that is read if nothing is announced.
    """

    num_bytes: int

    @property
    def num_tokens(self) -> int:
        """Of its prompt, about."""
        return self.num_bytes // BYTES_PER_TOKEN


class Admission:
    """Counts the calls under way, and refuses those that would be too many.

    Args:
        max_calls: Under way at a time.
        max_bytes: Of the bodies of all calls under way.
        requests_per_s: How many requests the pool finishes, as far as is known.
    """

    def __init__(self, *, max_calls: int, max_bytes: int, requests_per_s: Callable[[], float]) -> None:
        self._max_calls = max_calls
        self._max_bytes = max_bytes
        self._requests_per_s = requests_per_s
        self._num_calls = 0
        self._num_bytes = 0
        self._calls: Counter[str] = Counter()
        self._tokens: Counter[str] = Counter()

    @property
    def calls(self) -> dict[str, int]:
        """Under way, by owner."""
        return dict(self._calls)

    def enter(self, key: ApiKey, load: Load) -> None:
        """Let a call in; `leave` ends it.

        Raises:
            QueueFullError: not now.
        """
        if self._num_calls >= self._max_calls:
            raise self._refusal(f"{self._num_calls} calls are under way here, the most there may be", self._num_calls)
        if self._num_bytes + load.num_bytes > self._max_bytes:
            raise self._refusal(
                f"the calls under way here have {self._num_bytes} bytes, of the {self._max_bytes} there may be",
                self._num_calls,
            )
        calls, tokens = self._calls[key.name], self._tokens[key.name]
        if key.max_num_requests is not None and calls >= key.max_num_requests:
            raise self._refusal(
                f"{calls} requests of {key.name!r} are under way, the most this API key may have", calls
            )
        if key.max_num_tokens is not None and calls and tokens + load.num_tokens > key.max_num_tokens:
            raise self._refusal(
                f"about {tokens} prompt tokens of {key.name!r} are under way, of the {key.max_num_tokens} this API key "
                "may have",
                calls,
            )
        self._num_calls += 1
        self._num_bytes += load.num_bytes
        self._calls[key.name] += 1
        self._tokens[key.name] += load.num_tokens

    def leave(self, key: ApiKey, load: Load) -> None:
        """The call is over."""
        self._num_calls -= 1
        self._num_bytes -= load.num_bytes
        for counter, amount in ((self._calls, 1), (self._tokens, load.num_tokens)):
            counter[key.name] -= amount
        if not self._calls[key.name]:
            del self._calls[key.name], self._tokens[key.name]

    def check(self) -> None:
        """Assert that nothing is under way."""
        assert not self._num_calls
        assert not self._num_bytes
        assert not self._calls

    def _refusal(self, reason: str, num_ahead: int) -> QueueFullError:
        """One of those ahead has to end first: the time that takes, at the pool's present rate."""
        rate = self._requests_per_s()
        share = rate * num_ahead / max(self._num_calls, 1)
        retry_after_s = min(max(math.ceil(1 / share), 1), _LONGEST_RETRY_S) if share > 0 else 1
        return QueueFullError(f"{reason}; retry in {retry_after_s} s", retry_after_s=retry_after_s)

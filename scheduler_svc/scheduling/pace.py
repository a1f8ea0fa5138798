"""How fast a worker computes. Pure."""

from collections import deque

_NUM_STEPS = 256


class Pace:
    """Remembers the latest steps of one worker."""

    def __init__(self) -> None:
        self._rates: deque[float] = deque(maxlen=_NUM_STEPS)

    def observe(self, num_tokens: int, compute_us: int) -> None:
        """One step was answered."""
        if num_tokens and compute_us:
            self._rates.append(num_tokens / compute_us)

    @property
    def tokens_per_s(self) -> float:
        """At its best lately: of a step full of prompts, if there was one. 0 while nothing is known."""
        return 1e6 * max(self._rates, default=0.0)

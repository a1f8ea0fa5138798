"""How much of a sequence has been computed, and how much of that more than once. Pure."""


class WorkDone:
    """Counts positions as workers answer for them.

    Attributes:
        num_computed_tokens: Positions computed for the first time.
        num_recomputed_tokens: Positions computed again.
    """

    __slots__ = ("_num_reached", "num_computed_tokens", "num_recomputed_tokens")

    def __init__(self) -> None:
        self.num_computed_tokens = 0
        self.num_recomputed_tokens = 0
        self._num_reached = 0

    def resume(self, num_tokens: int, num_cached_tokens: int) -> None:
        """Begin where an earlier leader stopped: so many tokens were known, all but the last one computed or cached."""
        self._num_reached = num_tokens - 1
        self.num_computed_tokens = self._num_reached - num_cached_tokens

    def pass_over(self, num_tokens: int) -> None:
        """The first positions are here, and somebody else has computed them: a prefix hit or a fork."""
        self._num_reached = max(self._num_reached, num_tokens)

    def add(self, start: int, stop: int) -> None:
        """The positions `[start, stop)` have been computed."""
        num_again = max(0, min(stop, self._num_reached) - start)
        self.num_recomputed_tokens += num_again
        self.num_computed_tokens += stop - start - num_again
        self._num_reached = max(self._num_reached, stop)

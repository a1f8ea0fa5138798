"""When a service that died starts again. Pure: times are arguments."""

from dataclasses import dataclass, field

FIRST_DELAY_S = 0.1
MAX_DELAY_S = 30.0
STEADY_AFTER_S = 60.0
"""A service that ran this long was well: its next death counts as its first."""


@dataclass(slots=True)
class RestartHistory:
    """The deaths of one service, as far as they say how long to wait before the next start."""

    num_deaths_in_a_row: int = field(default=0, init=False)

    def died(self, *, uptime_s: float) -> float:
        """Note a death, and return the seconds until the next start: doubled each time, up to `MAX_DELAY_S`."""
        if uptime_s >= STEADY_AFTER_S:
            self.num_deaths_in_a_row = 0
        delay_s = FIRST_DELAY_S * 2.0 ** min(self.num_deaths_in_a_row, 16)
        self.num_deaths_in_a_row += 1
        return min(delay_s, MAX_DELAY_S)

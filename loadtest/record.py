"""What was seen of one request."""

from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRecord:
    """Times are seconds of one monotonic clock.

    Attributes:
        due_s: When it should have been sent; later than that only if the client held it back.
        started_s: When it was sent.
        chunk_times_s: When each piece of output came.
        num_prompt_tokens: As the server counted, else as we did.
        num_output_tokens: As the server counted, else the pieces of output.
        text: The output.
        error: Why it failed; None if it did not.
    """

    due_s: float
    started_s: float
    chunk_times_s: tuple[float, ...] = ()
    num_prompt_tokens: int = 0
    num_output_tokens: int = 0
    text: str = ""
    error: str | None = None

    @property
    def queue_time_s(self) -> float:
        """How long the client held it back."""
        return self.started_s - self.due_s

    @property
    def ended_s(self) -> float:
        """When the last output came."""
        return self.chunk_times_s[-1] if self.chunk_times_s else self.started_s

    @property
    def ttft_s(self) -> float:
        """Time to the first output."""
        return self.chunk_times_s[0] - self.started_s if self.chunk_times_s else 0.0

    @property
    def e2el_s(self) -> float:
        """Time to the last output."""
        return self.ended_s - self.started_s

    @property
    def itls_s(self) -> list[float]:
        """Times between one output and the next."""
        return [after - before for before, after in pairwise(self.chunk_times_s)]

    @property
    def tpot_s(self) -> float | None:
        """Mean time per token after the first; None if there is no such token."""
        if self.num_output_tokens < 2:  # noqa: PLR2004
            return None
        return (self.e2el_s - self.ttft_s) / (self.num_output_tokens - 1)

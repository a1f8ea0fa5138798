"""What an earlier leader left of a choice."""

from typing import NamedTuple


class Progress(NamedTuple):
    """What a choice had already told its client.

    Attributes:
        output: Its tokens.
        is_finished: Whether the last of them ended it.
        num_cached_tokens: What the client was told of prefix hits.
        num_kept_tokens: How much of its output is kept beside the logs.
    """

    output: tuple[int, ...] = ()
    is_finished: bool = False
    num_cached_tokens: int = 0
    num_kept_tokens: int = 0

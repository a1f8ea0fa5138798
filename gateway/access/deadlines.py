"""Until when a client waits: read from its call, refused at once if it cannot be met, and kept while the call lasts."""

import math
from collections.abc import Mapping
from typing import Final

from gateway.completions.submission import Submission
from shared.errors import DeadlineUnreachableError, InvalidRequestError
from shared.messages import PoolStatus

HEADER: Final = "x-deadline-ms"
MAX_DEADLINE_MS: Final = 7 * 24 * 3600 * 1000


def deadline_of_header(headers: Mapping[str, str]) -> int | None:
    """Milliseconds that the client gives its call by a header.

    Raises:
        InvalidRequestError: it is no such number.
    """
    text = headers.get(HEADER)
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) <= len(str(MAX_DEADLINE_MS))):
        raise InvalidRequestError(
            f"'{HEADER}' is {text[:80]!r}; send milliseconds from 1 to {MAX_DEADLINE_MS}", param=HEADER
        )
    if not 1 <= int(text) <= MAX_DEADLINE_MS:
        raise InvalidRequestError(f"'{HEADER}' is {text}; send milliseconds from 1 to {MAX_DEADLINE_MS}", param=HEADER)
    return int(text)


def with_deadline(
    submission: Submission, allowed_ms: int | None, *, arrived_ms: int, status: PoolStatus | None
) -> Submission:
    """The call with its deadline.

    Args:
        submission: What is to be sent.
        allowed_ms: What the client gives; None if it waits for as long as it takes.
        arrived_ms: Unix time at which its call came.
        status: How the pool is, if that is known.

    Raises:
        DeadlineUnreachableError: what waits before it takes longer, even at the workers' best pace.
    """
    if allowed_ms is None:
        return submission
    if status is not None and status.tokens_per_s > 0:
        num_prompt_tokens = sum(len(prompt.token_ids) for prompt in submission.prompts)
        check_reachable(allowed_ms, num_prompt_tokens, status)
    return submission._replace(deadline_ms=arrived_ms + allowed_ms)


def check_reachable(allowed_ms: int, num_prompt_tokens: int, status: PoolStatus) -> None:
    """See that a first token could come in time.

    A lower bound of the time it takes, by all that must be computed before and by the workers' best pace: prefix hits
    of the prompt itself are not foreseen, so it is left out unless it must wait.

    Raises:
        DeadlineUnreachableError: it could not.
    """
    num_before = status.num_waiting_tokens
    needed_s = (num_before + num_prompt_tokens) / status.tokens_per_s if num_before else 0.0
    if needed_s * 1000 <= allowed_ms:
        return
    retry_after_s = min(max(math.ceil(needed_s - allowed_ms / 1000), 1), 60)
    raise DeadlineUnreachableError(
        f"The deadline of {allowed_ms} ms cannot be met: {num_before} tokens are to be computed before, which takes "
        f"{needed_s:.1f} s with this prompt; retry in {retry_after_s} s or allow more",
        retry_after_s=retry_after_s,
    )

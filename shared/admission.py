"""The refusal at the door: what a client is told when the pool takes no more requests."""

import math

from shared.errors import QueueFullError
from shared.messages import PoolStatus

_LONGEST_RETRY_S = 60


def queue_full(num_requests: int, status: PoolStatus | None) -> QueueFullError:
    """The error for a request that found `num_requests` others waiting or running.

    Its retry hint is the time in which that many requests finish at the pool's present rate, between 1 and 60 seconds.
    """
    rate = status.requests_per_s if status else 0.0
    retry_after_s = min(max(math.ceil(num_requests / rate), 1), _LONGEST_RETRY_S) if rate > 0 else 1
    return QueueFullError(
        f"{num_requests} requests are waiting or running, the most this pool takes; retry in {retry_after_s} s",
        retry_after_s=retry_after_s,
    )

"""When requests arrive: an open loop that does not wait for answers. Pure."""

import math
import random
from itertools import accumulate


def arrival_times(num_arrivals: int, *, request_rate: float, burstiness: float, seed: int) -> list[float]:
    """Seconds from the start to each arrival, in order.

    The gaps follow a gamma distribution, scaled so that the last arrival comes after `num_arrivals / request_rate`
    seconds whatever the seed, as `vllm bench serve` does: the offered rate is then the one that was asked for.

    Args:
        num_arrivals: How many.
        request_rate: Arrivals per second; infinite for all at once.
        burstiness: The distribution's shape. 1 is a Poisson process, less comes in bursts, infinity is a metronome.
        seed: The same one gives the same times.
    """
    if math.isinf(request_rate):
        return [0.0] * num_arrivals
    if math.isinf(burstiness):
        return [(index + 1) / request_rate for index in range(num_arrivals)]
    source = random.Random(seed)
    times = list(accumulate(source.gammavariate(burstiness, 1.0) for _ in range(num_arrivals)))
    # A burstiness near 0 makes gaps too small for a float; then all of them are one burst.
    scale = num_arrivals / request_rate / times[-1] if times and times[-1] else 0.0
    return [time * scale for time in times]

"""What a seed chooses: the pool, what clients ask, and what breaks when. Nothing here knows how it goes."""

from dataclasses import dataclass
from enum import Enum
from random import Random
from typing import Final

from loadtest.simulation.gateway import Ask
from loadtest.simulation.model import STOP
from shared.ids import RequestId
from shared.messages import WorkerCapabilities
from shared.sampling import SamplingParams

TROUBLE_S: Final = 8.0
"""For so long things break; then everything heals, and all that was accepted must come to its end."""

_LONGEST_PAUSE_S: Final = 9.0


class Fault(Enum):
    """What may happen to the pool."""

    KILL_WORKER = "kill a worker"
    STOP_WORKER = "SIGTERM a worker"
    PAUSE_WORKER = "stop a worker for a while"
    CUT_WORKER = "cut a worker off"
    RESET_WORKER = "reset the connections of a worker"
    ADD_WORKER = "add a worker"
    KILL_LEADER = "kill the leader"
    PAUSE_LEADER = "stop the leader for a while"
    CUT_LEADER = "cut the leader off"
    RESET_LEADER = "reset the connections of the leader"
    KILL_GATEWAY = "kill a gateway"
    PAUSE_GATEWAY = "stop a gateway for a while"
    CUT_GATEWAY = "cut a gateway off"
    RESET_GATEWAY = "reset the connections of a gateway"
    RESTART_REDIS = "restart Redis"


@dataclass(frozen=True, slots=True)
class Trouble:
    """One fault.

    Attributes:
        lasts_s: A pause, a cut, or the time until what was killed is back.
        which: A number that chooses among those that it may hit.
        num_calls: What is to be killed dies with this call from now on; None for at once.
    """

    at_s: float
    fault: Fault
    lasts_s: float
    which: int
    num_calls: int | None


@dataclass(frozen=True, slots=True)
class Scenario:
    """All that is fixed before a simulation begins.

    Attributes:
        asks: Who asks what, and when.
        loss: Which part of published batches is lost.
    """

    capabilities: WorkerCapabilities
    steps_s: tuple[float, ...]
    num_gateways: int
    asks: tuple[tuple[float, Ask], ...]
    troubles: tuple[Trouble, ...]
    loss: float


def choose(rng: Random) -> Scenario:
    """What the next numbers of a generator say."""
    num_blocks = rng.randint(8, 20)
    capabilities = WorkerCapabilities(
        model="simulated",
        block_size=4,
        num_blocks=num_blocks,
        max_model_len=rng.choice([24, 32]),
        max_num_seqs=rng.randint(2, 5),
        max_num_batched_tokens=rng.randint(4, 24),
        enable_prefix_caching=rng.random() < 0.8,  # noqa: PLR2004
        num_efficient_tokens=rng.choice((None, rng.randint(1, 12))),
        max_plans_in_flight=rng.choice([1, 2, 2, 2, 3]),
    )
    prefix = [rng.randint(3, 60) for _ in range(9)]
    asks = tuple((rng.random() * 4, _ask(rng, index, prefix)) for index in range(rng.randint(1, 4)))
    troubles = tuple(_trouble(rng) for _ in range(rng.choice([0, 1, 2, 2, 3, 4])))
    return Scenario(
        capabilities=capabilities,
        steps_s=tuple(rng.uniform(0.02, 0.4) for _ in range(rng.randint(1, 3))),
        num_gateways=rng.choice([1, 1, 2]),
        asks=asks,
        troubles=troubles,
        loss=rng.choice([0.0, 0.0, 0.2, 0.6, 1.0]),
    )


def _ask(rng: Random, index: int, prefix: list[int]) -> Ask:
    prompt = prefix[: rng.choice([0, 4, 8, 9])] + [rng.randint(3, 60) for _ in range(rng.randint(1, 6))]
    is_too_long = rng.random() < 0.02  # noqa: PLR2004
    sampling = SamplingParams(
        max_tokens=rng.randint(1, 12), n=rng.choice([1, 1, 1, 2, 3]), stop_token_ids=rng.choice([(), (STOP,)])
    )
    hangs_up_s = rng.random() * 4 if rng.random() < 0.1 else None  # noqa: PLR2004
    return Ask(RequestId(f"r{index}"), prompt * 8 if is_too_long else prompt, sampling, hangs_up_s)


def _trouble(rng: Random) -> Trouble:
    fault = rng.choice(list(Fault))
    num_calls = rng.randint(0, 12) if rng.random() < 0.5 else None  # noqa: PLR2004
    return Trouble(rng.random() * TROUBLE_S, fault, rng.random() * _LONGEST_PAUSE_S, rng.randint(0, 10**6), num_calls)

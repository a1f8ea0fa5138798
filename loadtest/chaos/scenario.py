"""What a run of chaos does, as data: which services, which load, which faults, and what must not happen."""

import tomllib
from importlib import resources
from pathlib import Path
from typing import Annotated, Final, Literal, Self

import msgspec
from msgspec import Meta

from shared.errors import ConfigurationError

FaultName = Literal[
    "kill-worker", "hang-worker", "drain-worker", "cut-worker", "deafen-worker", "isolate-worker",
    "kill-scheduler", "hang-scheduler", "drain-scheduler", "cut-scheduler", "deafen-scheduler", "isolate-scheduler",
    "kill-gateway", "hang-gateway", "drain-gateway", "cut-gateway", "deafen-gateway", "isolate-gateway",
    "kill-redis", "hang-redis", "restart-redis",
]  # fmt: skip
"""What happens, to one service of which role; see `faults`."""

Count = Annotated[int, Meta(ge=1)]
Share = Annotated[float, Meta(ge=0, le=1)]
Range = tuple[float, float]

_DIRECTORY: Final = resources.files("loadtest.chaos").joinpath("scenarios")
_SUFFIX: Final = ".toml"


class Scenario(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One run. The same scenario sends the same requests and draws the same faults, each at its own moment.

    Attributes:
        description: In a few words.
        runner: "fake" computes a function of the request, "model" the demo model in exact mode.
        workers: How many there are while all is well; likewise schedulers, of which one leads, and gateways.
        step_ms: How long a step of the fake lasts.
        streams: Requests under way at once. As one ends, the next one starts.
        max_tokens: Least and most output tokens of an answer.
        num_requests: Different requests, after which they repeat; None for as many as it takes. A model needs a number:
            each one is asked once before anything fails, to know what is right.
        faults: Weight of each kind of fault.
        num_faults: How many there are.
        duration_s: The load lasts at least so long.
        healthy_s: Least and most time between one fault's end, all services back, and the next fault.
        overlap: Share of the faults that come without waiting for services to be back.
        hold_s: Least and most time that a service hangs or is cut off.
        max_stall_p99_s: Of pauses within answers; None for no bound.
        max_memory_growth: Of each process from the load's second half on; None for no bound.
        breaks_streams: Whether a stream may break off, as it does when its gateway dies; what came must be right.
    """

    description: str
    runner: Literal["fake", "model"] = "fake"
    seed: int = 0
    workers: Count = 3
    schedulers: Count = 2
    gateways: Count = 1
    step_ms: float = 30.0
    streams: Count = 64
    max_tokens: tuple[Count, Count] = (16, 400)
    num_requests: Count | None = None
    faults: dict[FaultName, Annotated[float, Meta(gt=0)]] = {}
    num_faults: Annotated[int, Meta(ge=0)] = 0
    duration_s: float = 0.0
    healthy_s: Range = (0.2, 1.0)
    overlap: Share = 0.0
    hold_s: Range = (0.3, 4.0)
    max_stall_p99_s: float | None = 5.0
    max_memory_growth: float | None = None
    breaks_streams: bool = False

    @classmethod
    def load(cls, name: str) -> Self:
        """Read one that comes with the product, by its name, or a file of one's own.

        Raises:
            ConfigurationError: there is none, or it says what cannot be.
        """
        own = Path(name)
        source = own if own.suffix == _SUFFIX else _DIRECTORY.joinpath(name + _SUFFIX)
        try:
            scenario = msgspec.convert(tomllib.loads(source.read_text(encoding="utf-8")), cls)
        except FileNotFoundError as error:
            known = ", ".join(built_in())
            raise ConfigurationError(
                f"there is no scenario {name!r}; give one of {known}, or the path of a {_SUFFIX} file"
            ) from error
        except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
            raise ConfigurationError(f"scenario {name!r} cannot be used: {error}") from error
        if scenario.num_faults and not scenario.faults:
            raise ConfigurationError(f"scenario {name!r} has num_faults but no faults; name some, with their weights")
        if scenario.runner == "model" and scenario.num_requests is None:
            raise ConfigurationError(f"scenario {name!r} needs num_requests: its runner is a model")
        return scenario


def built_in() -> list[str]:
    """The names of the scenarios that come with the product."""
    return sorted(file.name.removesuffix(_SUFFIX) for file in _DIRECTORY.iterdir())

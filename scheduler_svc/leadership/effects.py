"""What a term of leadership wants done on the bus. Its shell does one after another, in order."""

from dataclasses import dataclass, field

from shared.dead_letters import Case, DeadLetter
from shared.ids import StepId, WorkerId
from shared.kept_outputs import OutputAddress, OutputPart
from shared.messages import PoolStatus, StepPlan, StepResult
from shared.usage import UsageRecord


@dataclass(frozen=True, slots=True)
class Seal:
    """Declare a writer dead: nothing is added to its streams any more."""

    writer: WorkerId


@dataclass(frozen=True, slots=True)
class Follow:
    """Read a writer's log from its beginning to its seal, and tell the term what stands there (`Term.read`)."""

    writer: WorkerId


@dataclass(frozen=True, slots=True)
class TakeOver:
    """Collect what earlier leaders, now closed out, did not finish (`Term.take_over`); from then on receive."""


@dataclass(frozen=True, slots=True)
class SendPlan:
    """Let a worker execute a step."""

    worker: WorkerId
    step: StepId
    plan: StepPlan


@dataclass(frozen=True, slots=True)
class Emit:
    """Write and publish a result of our own: faults."""

    writer: WorkerId
    step: StepId
    result: StepResult


@dataclass(frozen=True, slots=True)
class Keep:
    """Remember, until requests are finished, what is held against them and what the logs will not hold for ever."""

    cases: dict[str, Case]
    outputs: list[OutputPart]


@dataclass(frozen=True, slots=True)
class Bury:
    """Keep a dead letter of an entry."""

    entry: str
    letter: DeadLetter


@dataclass(frozen=True, slots=True)
class Finish:
    """End these entries of the inbox, count what the requests among them used, and forget what was kept of them."""

    entries: list[str]
    usage: dict[str, UsageRecord] = field(default_factory=dict, compare=False)
    outputs: list[OutputAddress] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Announce:
    """Tell everybody how the pool is."""

    status: PoolStatus


Effect = Seal | Follow | TakeOver | SendPlan | Emit | Keep | Bury | Finish | Announce

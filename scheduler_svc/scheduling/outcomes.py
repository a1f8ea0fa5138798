"""What the world must be told of what the core has decided."""

from dataclasses import dataclass, field

from shared.dead_letters import Case, DeadLetter
from shared.ids import GatewayId
from shared.messages import Fault
from shared.usage import UsageRecord


@dataclass(slots=True)
class Outcomes:
    """In the order in which it must be told: cases before anything else runs, letters before faults, ends last.

    Attributes:
        cases: By bus entry, what is held against requests from now on.
        letters: By bus entry, requests that were given up.
        faults: Terminal events that no worker's result carries.
        finished: Bus entries of requests that reached their terminal state.
        usage: By bus entry, what those of them used that were computed here.
    """

    cases: dict[str, Case] = field(default_factory=dict)
    letters: dict[str, DeadLetter] = field(default_factory=dict)
    faults: list[tuple[GatewayId, Fault]] = field(default_factory=list)
    finished: list[str] = field(default_factory=list)
    usage: dict[str, UsageRecord] = field(default_factory=dict)

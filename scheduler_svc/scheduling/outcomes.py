"""What the world must be told of what the core has decided."""

from dataclasses import dataclass, field

from scheduler_svc.scheduling.sequence import Sequence
from shared.dead_letters import Case, DeadLetter
from shared.ids import GatewayId
from shared.kept_outputs import OutputAddress, OutputPart
from shared.messages import Fault
from shared.usage import UsageRecord


@dataclass(slots=True)
class Outcomes:
    """In the order in which it must be told: cases before anything else runs, letters before faults, ends last.

    Attributes:
        outputs: What is to be kept of outputs beside the logs, before anything of them is computed again.
        cases: By bus entry, what is held against requests from now on.
        letters: By bus entry, requests that were given up.
        faults: Terminal events that no worker's result carries.
        ends: The last parts of outputs that have ended, to be kept when their faults, if any, have been told.
        finished: Bus entries of requests that reached their terminal state.
        usage: By bus entry, what those of them used that were computed here.
        dropped: Outputs of which something was kept, of requests that have ended.
    """

    outputs: list[OutputPart] = field(default_factory=list)
    cases: dict[str, Case] = field(default_factory=dict)
    letters: dict[str, DeadLetter] = field(default_factory=dict)
    faults: list[tuple[GatewayId, Fault]] = field(default_factory=list)
    ends: list[OutputPart] = field(default_factory=list)
    finished: list[str] = field(default_factory=list)
    usage: dict[str, UsageRecord] = field(default_factory=dict)
    dropped: list[OutputAddress] = field(default_factory=list)

    def keep_output(self, sequence: Sequence) -> None:
        """Have that part of an output kept that only logs hold."""
        if sequence.num_unkept_tokens:
            self.outputs.append(sequence.keep_output())

    def keep_end(self, sequence: Sequence) -> None:
        """Have an output kept that has ended, though its request goes on."""
        self.ends.append(sequence.keep_output())

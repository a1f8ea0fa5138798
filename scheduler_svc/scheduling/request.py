"""One accepted request: what the gateway asked, and the sequences that answer it."""

from scheduler_svc.scheduling.sequence import Sequence
from shared.ids import Handle
from shared.messages import Submit


class Request:
    """A request and its n choices, until each has reached its one terminal event.

    Attributes:
        entry: The bus's name for the `Submit`; finished when the request is.
        sequences: One per choice, in order.
        follower: The gateway that wants the tokens.
    """

    def __init__(self, submit: Submit, *, entry: str, sequences: list[Sequence]) -> None:
        self.submit = submit
        self.entry = entry
        self.sequences = sequences
        self.follower = submit.gateway_id

    @property
    def is_finished(self) -> bool:
        """Whether every choice has ended."""
        return all(sequence.is_finished for sequence in self.sequences)

    def handle_of(self, sequence: Sequence) -> Handle:
        """The gateway's name for one choice."""
        return Handle(self.submit.handle + sequence.choice)

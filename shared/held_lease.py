"""By which connection a lease is held: a process that is killed has its connections closed by its kernel, at once."""

from typing import NamedTuple


class HeldLease(NamedTuple):
    """One lease at one moment.

    Attributes:
        holder: The worker, or the leading scheduler.
        connection: Names the connection that it was renewed by last, and the server process that has it.
        is_connected: Whether that connection is open.
        age_s: Since it was renewed, if that was asked for; 0.0 otherwise.
    """

    holder: str
    connection: str
    is_connected: bool
    age_s: float = 0.0


class Sighting(NamedTuple):
    """A look at leases whose connections can be seen: those to the server process that was asked.

    Attributes:
        view: Names the connection by which we looked; empty if connections cannot be looked at.
        leases: What was seen.
    """

    view: str
    leases: tuple[HeldLease, ...] = ()

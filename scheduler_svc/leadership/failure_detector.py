"""Who has crashed, by the connections that are closed: long before a lease runs out. Pure: looks and the time come in.

Leases and connections say only who lives. That somebody wrongly taken for dead does no harm is the work of epochs and
seals; here it costs a worker its name, or a leader its term. A live holder whose connection was reset makes another one
at once and says so; hence the second look. A process that is stopped, or cut off without a reset, keeps its connection,
and its lease runs out.
"""

from typing import Final

from shared.bus import HEARTBEAT_INTERVAL_S
from shared.held_lease import HeldLease, Sighting

CONFIRMATION_S: Final = 0.2
"""A connection is missed for so long before its holder is taken for dead."""

UNRENEWED_S: Final = 2 * HEARTBEAT_INTERVAL_S
"""A connection that was never seen may be one that cannot be seen from here, as behind some proxies. Whoever holds a
lease by it is taken for dead only if that is known not to have been renewed for so long."""


class FailureDetector:
    """Remembers which connections have been seen, and since when others are missed."""

    def __init__(self) -> None:
        self._view = ""
        self._seen: set[str] = set()
        self._missed_s: dict[str, float] = {}

    def crashed(self, sighting: Sighting, *, now_s: float) -> list[HeldLease]:
        """Leases whose holders are gone, by one more look."""
        if sighting.view != self._view:  # what one connection sees, another one may not
            self._view, self._seen, self._missed_s = sighting.view, set(), {}
        missed = [lease for lease in sighting.leases if not lease.is_connected]
        self._seen &= {lease.connection for lease in sighting.leases}
        self._seen |= {lease.connection for lease in sighting.leases if lease.is_connected}
        self._missed_s = {lease.connection: self._missed_s.get(lease.connection, now_s) for lease in missed}
        return [lease for lease in missed if self._is_gone(lease, now_s)]

    def _is_gone(self, lease: HeldLease, now_s: float) -> bool:
        is_known = lease.connection in self._seen or lease.age_s >= UNRENEWED_S
        return is_known and now_s - self._missed_s[lease.connection] >= CONFIRMATION_S

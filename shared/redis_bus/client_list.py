"""Which connections a server has: what `CLIENT LIST` tells of those by which leases are held."""

import logging
import re
from collections.abc import Iterable
from typing import Final

import redis

from shared.bus import LIVENESS_TTL_S
from shared.held_lease import HeldLease, Sighting
from shared.redis_bus.connection import AsyncConnection
from shared.redis_bus.connection_name import AsyncConnectionName

_log = logging.getLogger(__name__)

_BLIND: Final = Sighting("")
_ID: Final = re.compile(rb"^id=(\d+) ", re.MULTILINE)


class ClientList:
    """Looks at connections of the server that a connection of ours leads to.

    Args:
        connection: By which the server is asked.
        name: Its name.
    """

    def __init__(self, connection: AsyncConnection, name: AsyncConnectionName) -> None:
        self._connection = connection
        self._name = name
        self._refused_to = ""
        self._said: str | None = None

    async def sight(self, leases: Iterable[tuple[str, str, float]]) -> Sighting:
        """Look at leases, each of which is a holder, the name of its connection and its age.

        Those of other server processes are left out: nothing is known of their connections.
        """
        view = await self._name.ask()
        if not view:
            return self._blind("CLIENT ID or INFO is refused")
        if view == self._refused_to:
            return _BLIND
        process, _, own_id = view.partition(":")
        held = [(lease, lease[1].removeprefix(f"{process}:")) for lease in leases if lease[1].startswith(f"{process}:")]
        try:
            reply = await self._connection.call(
                "CLIENT", "LIST", "ID", own_id, *(client for _, client in held), is_repeatable=True
            )
        except redis.ResponseError as error:
            self._refused_to = view
            return self._blind(str(error))
        found = {match.decode() for match in _ID.findall(reply)}
        if own_id not in found:  # it was another server, or our connection is a new one since
            return _BLIND
        self._say("Crashes show as soon as connections are closed", logging.INFO)
        return Sighting(
            view,
            tuple(
                HeldLease(holder, connection, is_connected=client in found, age_s=age_s)
                for (holder, connection, age_s), client in held
            ),
        )

    def _blind(self, reason: str) -> Sighting:
        self._say(
            f"Crashes show when a lease of {LIVENESS_TTL_S:.0f} s runs out, connections cannot be seen: {reason}",
            logging.WARNING,
        )
        return _BLIND

    def _say(self, text: str, level: int) -> None:
        """Log what holds from now on, once."""
        if text != self._said:
            self._said = text
            _log.log(level, text)

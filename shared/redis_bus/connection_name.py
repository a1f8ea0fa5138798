"""What tells a connection from all others, for those who look whether it is still there: `<run_id>:<CLIENT ID>`.

The server is asked once for each socket. The name is empty where it does not tell: an access list or a proxy forbids.
"""

import redis

from shared.redis_bus.blocking_connection import BlockingConnection
from shared.redis_bus.connecting import server_process
from shared.redis_bus.connection import AsyncConnection


class AsyncConnectionName:
    """The name of what a connection is at the moment."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection
        self._number = 0
        self._name = ""

    @property
    def is_current(self) -> bool:
        """Whether what was told last is the name of the present socket."""
        return 0 < self._number == self._connection.num_connects

    async def ask(self) -> str:
        """The present socket's name; raises as `AsyncConnection.call` does, but not if it is refused."""
        while not self.is_current:
            try:
                client = await self._connection.call("CLIENT", "ID", is_repeatable=True)
                number = self._connection.num_connects
                name = f"{server_process(await self._connection.call('INFO', 'server', is_repeatable=True))}:{client}"
            except redis.ResponseError:
                name, number = "", self._connection.num_connects
            self._name, self._number = name, number
        return self._name


class BlockingConnectionName:
    """`AsyncConnectionName` of a `BlockingConnection`."""

    def __init__(self, connection: BlockingConnection) -> None:
        self._connection = connection
        self._number = 0
        self._name = ""

    @property
    def is_current(self) -> bool:
        """Whether what was told last is the name of the present socket."""
        return 0 < self._number == self._connection.num_connects

    def ask(self) -> str:
        """The present socket's name; raises as `BlockingConnection.call` does, but not if it is refused."""
        while not self.is_current:
            try:
                client = self._connection.call("CLIENT", "ID", is_repeatable=True)
                number = self._connection.num_connects
                name = f"{server_process(self._connection.call('INFO', 'server', is_repeatable=True))}:{client}"
            except redis.ResponseError:
                name, number = "", self._connection.num_connects
            self._name, self._number = name, number
        return self._name

"""The stack's Redis: one that runs elsewhere, or one of its own, which starts again on its data when it dies."""

from types import TracebackType
from typing import Self

import redis

from pagestream.supervisor import Audience
from shared.redis_server import RedisServer


class RedisKeeper:
    """Has a Redis server as long as it is entered, unless somebody else has one at `elsewhere`."""

    def __init__(self, elsewhere: str | None, *, audience: Audience) -> None:
        self._own: _OwnServer | None = None
        if elsewhere is None:
            self._own = _OwnServer()
            elsewhere = self._own.server.url
        self.url = elsewhere
        self._audience = audience

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._own is not None:
            self._own.client.close()
            self._own.server.stop()

    def check(self) -> None:
        """Start our own server again if it is gone."""
        if self._own is None:
            return
        try:
            self._own.client.ping()
        except redis.ConnectionError:
            self._audience.alert("redis", "ended; starts again with its data")
            self._own.server.restart()


class _OwnServer:
    """A server, and a client that looks after it."""

    def __init__(self) -> None:
        self.server = RedisServer()
        self.client = redis.Redis.from_url(self.server.url, protocol=2)

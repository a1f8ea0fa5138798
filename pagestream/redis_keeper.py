"""The stack's Redis: one that runs elsewhere, or one of its own, which starts again on its data when it dies."""

from types import TracebackType
from typing import Self

import redis

from pagestream.supervisor import Audience
from shared.redis_server import RedisServer


class RedisKeeper:
    """Has a Redis server as long as it is entered, unless somebody else has one at `elsewhere`."""

    def __init__(self, elsewhere: str | None, *, audience: Audience) -> None:
        self._server: RedisServer | None = None
        if elsewhere is None:
            self._server = RedisServer()
            elsewhere = self._server.url
        self.url = elsewhere
        self._client = redis.Redis.from_url(self.url, protocol=2)
        self._audience = audience

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._client.close()
        if self._server is not None:
            self._server.stop()

    def check(self) -> None:
        """Start our own server again if it is gone."""
        if self._server is None:
            return
        try:
            self._client.ping()
        except redis.ConnectionError:
            self._audience.alert("redis", "ended; starts again with its data")
            self._server.restart()

"""A connection to Redis that blocks the calling thread: a worker's. redis-py opens it, `BlockingSocket` speaks."""

import threading
from typing import Any

import redis
from redis.exceptions import MovedError

from shared.errors import BusUnavailableError
from shared.redis_bus.blocking_socket import BlockingSocket
from shared.redis_bus.connecting import (
    BLOCKING,
    COMMAND_TIMEOUT_S,
    UNREACHABLE,
    Argument,
    check_server,
    maker_of,
    refusal,
    route_of,
    sentinels_of,
    translated,
    unavailable,
)
from shared.redis_bus.name_lookup import look_up
from shared.redis_bus.route import Attempts
from shared.redis_bus.scripts import Script


class BlockingConnection:
    """One connection of the calling thread; threads take turns. Otherwise as `AsyncConnection`."""

    def __init__(self, url: str, name: str) -> None:
        self._route = route_of(url)
        self._maker = maker_of(BLOCKING, self._route.url, name, timeout_s=COMMAND_TIMEOUT_S)
        self._opener = self._maker.make_connection()
        self._socket: BlockingSocket | None = None
        self._host: str | None = self._maker.connection_kwargs.get("host")
        self.num_connects = 0
        self._turn = threading.Lock()

    @property
    def is_cut_off(self) -> bool:
        """Whether the server, or what lies between, has closed the connection since the last command."""
        with self._turn:
            if self._socket is None or self._socket.is_open():
                return False
            self.close()
            return True

    def call(self, *command: Argument, wait_s: float = 0.0, is_repeatable: bool = False) -> Any:  # noqa: ANN401
        """Send one command and return its reply, undecoded; arguments and errors are as in `AsyncConnection`."""
        with self._turn:
            attempts = None
            try:
                while True:
                    try:
                        return self._exchange(command, wait_s)
                    except (MovedError, redis.ConnectionError) as error:
                        attempts = attempts or Attempts(self._route, is_repeatable=is_repeatable)
                        if not attempts.go_on(error):
                            raise
            except redis.ResponseError as error:
                raise translated(error) from error
            except UNREACHABLE as error:
                raise unavailable(error) from error

    def greet(self) -> None:
        """Check that a server is there that lets us in and is new enough; raises as `AsyncConnection.greet` does."""
        try:
            check_server(self.call("INFO", "server"), self._route)
        except BusUnavailableError as error:
            raise refusal(error) from error

    def run(self, script: Script, keys: list[str], *arguments: Argument) -> Any:  # noqa: ANN401
        """Run a script; raises as `call` does."""
        rest = (len(keys), *keys, *arguments)
        try:
            return self.call("EVALSHA", script.sha, *rest, is_repeatable=script.is_repeatable)
        except redis.exceptions.NoScriptError:
            return self.call("EVAL", script.text, *rest, is_repeatable=script.is_repeatable)

    def close(self) -> None:
        """Disconnect."""
        self._socket = None
        self._opener.disconnect()
        for sentinel in sentinels_of(self._maker):
            sentinel.close()

    def _exchange(self, command: tuple[Argument, ...], wait_s: float) -> Any:  # noqa: ANN401
        try:
            if self._socket is None:
                self._connect()
                self._socket = BlockingSocket(self._opener._sock)  # noqa: SLF001 - it offers no way to take its socket over
                self.num_connects += 1
            return self._socket.exchange(command, timeout_s=COMMAND_TIMEOUT_S + wait_s)
        except redis.ReadOnlyError as error:  # a primary no more: the sentinels, if there are any, know the new one
            self.close()
            raise redis.ConnectionError(str(error)) from error
        except MovedError:
            self.close()
            raise
        except redis.ResponseError:
            raise
        except ConnectionError as error:  # the system's: what redis-py calls so may be repeated
            self.close()
            raise redis.ConnectionError(str(error)) from error
        except BaseException:
            self.close()
            raise

    def _connect(self) -> None:
        """Connect to a server, whichever is there."""
        num_left = self._route.num_servers
        while True:
            if address := self._route.next():
                self._opener.host, self._opener.port = address
            host = address.host if address else self._host
            try:
                if host is not None:
                    look_up(host).result(COMMAND_TIMEOUT_S)
                self._opener.connect()
            except UNREACHABLE:
                self._route.lost()
                num_left -= 1
                if not num_left:
                    raise
            else:
                return

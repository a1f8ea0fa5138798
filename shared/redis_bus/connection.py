"""Connections to Redis without redis-py's client layer, which doubles the CPU time of a command.

redis-py's `Connection` brings the url, TLS, authentication and the parser, and asks sentinels who the primary is. What
is added here: one command at a time, a limit to every wait, a fresh socket after anything that leaves a reply unread (a
cancelled task, a timeout), and our own errors. A command is sent twice only if its caller says that this does no harm:
then a Redis that has just started again, on whose old socket nobody answers, is not even noticed.
"""

import asyncio
import re
import threading
from typing import Any, Final, NamedTuple

import redis
import redis.asyncio
import redis.asyncio.sentinel
import redis.sentinel
from redis.asyncio.connection import AbstractConnection as AsyncRedisConnection

from shared.errors import BusUnavailableError, ConfigurationError, PagestreamError
from shared.redis_bus.name_lookup import look_up
from shared.redis_bus.scripts import Script
from shared.redis_bus.sentinel_url import SentinelUrl

Argument = str | bytes | int | float

_PASSING = ("MISCONF", "NOREPLICAS", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "BUSY ")
_UNREACHABLE: Final = (redis.ConnectionError, redis.TimeoutError, redis.InvalidResponse, OSError)
OLDEST_VERSION = (6, 2)
_SENTINEL_TIMEOUT_S: Final = 1.0
COMMAND_TIMEOUT_S = 5.0
"""For a connection and for a reply, beyond the time that a command may wait in the server."""


class AsyncConnection:
    """One connection of an event loop; tasks take turns. Connects on first use, and again after an error.

    Args:
        name: What `CLIENT LIST` shows.

    Attributes:
        num_connects: How often it has connected.
    """

    def __init__(self, url: str, name: str) -> None:
        # redis-py's own timeout makes a task for every packet (asyncio.wait_for): a fifth of a command's CPU time.
        self._maker = _checked(_ASYNC, url, name, timeout_s=None)
        self._connection: AsyncRedisConnection = self._maker.make_connection()
        self.num_connects = 0
        self._host: str | None = self._maker.connection_kwargs.get("host")
        self._turn = asyncio.Lock()

    async def call(self, *command: Argument, wait_s: float = 0.0, is_repeatable: bool = False) -> Any:  # noqa: ANN401 - a reply's shape depends on the command
        """Send one command and return its reply, undecoded.

        Args:
            command: Its words.
            wait_s: How long the server may hold the reply back.
            is_repeatable: Whether the command may be executed twice: it is sent again, once, if the socket breaks.

        Raises:
            redis.ResponseError: the server refuses the command.
            BusUnavailableError: the server does not answer.
        """
        packed = self._connection.pack_command(*command)
        try:
            async with asyncio.timeout(COMMAND_TIMEOUT_S + wait_s), self._turn:
                try:
                    return await self._exchange(packed)
                except redis.ConnectionError:
                    if not is_repeatable:
                        raise
                    return await self._exchange(packed)
        except redis.ResponseError as error:
            raise translated(error) from error
        except _UNREACHABLE as error:
            raise unavailable(error) from error

    async def greet(self) -> None:
        """Check that a server is there that lets us in and is new enough.

        Raises:
            ConfigurationError: it is there, and will not do.
            BusUnavailableError: it is not there.
        """
        try:
            check_server(await self.call("INFO", "server"))
        except BusUnavailableError as error:
            raise refusal(error) from error

    async def run(self, script: Script, keys: list[str], *arguments: Argument) -> Any:  # noqa: ANN401
        """Run a script; raises as `call` does."""
        rest = (len(keys), *keys, *arguments)
        try:
            return await self.call("EVALSHA", script.sha, *rest, is_repeatable=script.is_repeatable)
        except redis.exceptions.NoScriptError:
            return await self.call("EVAL", script.text, *rest, is_repeatable=script.is_repeatable)

    async def next_reply(self) -> Any:  # noqa: ANN401
        """Wait, without limit, for something the server sends unasked: a published message; raises as `call` does."""
        try:
            return await self._connection.read_response()
        except _UNREACHABLE as error:
            await self.close()
            raise unavailable(error) from error

    async def close(self) -> None:
        """Disconnect."""
        await self._connection.disconnect(nowait=True)
        for sentinel in _sentinels_of(self._maker):
            await sentinel.aclose()

    async def _exchange(self, packed: list[bytes]) -> Any:  # noqa: ANN401
        try:
            if not self._connection.is_connected:
                if self._host is not None:
                    await asyncio.wrap_future(look_up(self._host))
                await self._connection.connect()  # type: ignore[no-untyped-call]  # `send_packed_command` asks no sentinel
                self.num_connects += 1
            await self._send(packed)
            return await self._connection.read_response()
        except redis.ResponseError:
            raise
        except BaseException:
            await self.close()
            raise

    async def _send(self, packed: list[bytes]) -> None:
        try:
            await self._connection.send_packed_command(packed)
        except RuntimeError as error:
            # What uvloop says of a socket that was reset while nobody looked, and redis-py does not translate.
            raise redis.ConnectionError(str(error)) from error


class BlockingConnection:
    """One connection of the calling thread; threads take turns. Otherwise as `AsyncConnection`."""

    def __init__(self, url: str, name: str) -> None:
        self._maker = _checked(_BLOCKING, url, name, timeout_s=COMMAND_TIMEOUT_S)
        self._connection = self._maker.make_connection()
        self._host: str | None = self._maker.connection_kwargs.get("host")
        self._is_connected = False
        self.num_connects = 0
        self._turn = threading.Lock()

    @property
    def is_cut_off(self) -> bool:
        """Whether the server, or what lies between, has closed the connection since the last command."""
        with self._turn:
            if not self._is_connected:
                return False
            try:
                is_open = not self._connection.can_read(0.0)
            except _UNREACHABLE:
                is_open = False
            if not is_open:
                self.close()
            return not is_open

    def call(self, *command: Argument, wait_s: float = 0.0, is_repeatable: bool = False) -> Any:  # noqa: ANN401
        """Send one command and return its reply, undecoded; arguments and errors are as in `AsyncConnection`."""
        with self._turn:
            try:
                try:
                    return self._exchange(command, wait_s)
                except redis.ConnectionError:
                    if not is_repeatable:
                        raise
                    return self._exchange(command, wait_s)
            except redis.ResponseError as error:
                raise translated(error) from error
            except _UNREACHABLE as error:
                raise unavailable(error) from error

    def greet(self) -> None:
        """Check that a server is there that lets us in and is new enough; raises as `AsyncConnection.greet` does."""
        try:
            check_server(self.call("INFO", "server"))
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
        self._is_connected = False
        self._connection.disconnect()
        for sentinel in _sentinels_of(self._maker):
            sentinel.close()

    def _exchange(self, command: tuple[Argument, ...], wait_s: float) -> Any:  # noqa: ANN401
        try:
            if not self._is_connected:
                if self._host is not None:
                    look_up(self._host).result(COMMAND_TIMEOUT_S)
                self._connection.connect()
                self._is_connected = True
                self.num_connects += 1
            self._connection.send_command(*command)
            if wait_s:
                self._connection.can_read(wait_s)  # from then on the reply is due, and the socket's own timeout runs
            return self._connection.read_response()
        except redis.ResponseError:
            raise
        except BaseException:
            self.close()
            raise


def block(timeout_s: float) -> tuple[Argument, ...]:
    """The words with which a command of streams is told how long to wait; none for not at all."""
    return ("BLOCK", max(1, int(timeout_s * 1000))) if timeout_s > 0 else ()


def unavailable(error: Exception) -> BusUnavailableError:
    """The error of ours for what goes wrong below the commands."""
    return BusUnavailableError(f"Redis does not answer: {str(error) or 'no reply in time'}")


def translated(error: redis.ResponseError) -> Exception:
    """The error itself, or ours if the server says that it cannot serve now, whatever the command."""
    is_passing = isinstance(error, redis.ReadOnlyError | redis.exceptions.OutOfMemoryError)
    return unavailable(error) if is_passing or str(error).startswith(_PASSING) else error


def refusal(error: BusUnavailableError) -> PagestreamError:
    """The error to show at start: a wrong password does not become right by waiting."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, redis.AuthenticationError):
        cause = cause.__cause__
    if cause is None:
        return error
    return ConfigurationError(f"--redis-url: Redis does not accept the user or the password: {cause}")


def check_server(info: bytes) -> None:
    """Read the server's own description.

    Raises:
        ConfigurationError: it is older than what the bus needs.
    """
    found = re.search(rb"redis_version:(\d+)\.(\d+)", info)
    if found and tuple(map(int, found.groups())) < OLDEST_VERSION:
        raise ConfigurationError(f"--redis-url: Redis {b'.'.join(found.groups()).decode()} is too old, 6.2 is needed")


def server_process(info: bytes) -> str:
    """Read the name that a server process gives itself, from its own description."""
    found = re.search(rb"run_id:(\w+)", info)
    return found.group(1).decode() if found else ""


class _Makers(NamedTuple):
    """redis-py's pools, which make connections, and its way to ask sentinels; of one kind."""

    pool: type[Any]
    sentinel_pool: type[Any]
    sentinels: type[Any]


_ASYNC: Final = _Makers(
    redis.asyncio.ConnectionPool, redis.asyncio.sentinel.SentinelConnectionPool, redis.asyncio.sentinel.Sentinel
)
_BLOCKING: Final = _Makers(redis.ConnectionPool, redis.sentinel.SentinelConnectionPool, redis.sentinel.Sentinel)


def _sentinels_of(maker: Any) -> list[Any]:  # noqa: ANN401 - either kind of pool
    """The clients by which a pool asks sentinels; none if it asks nobody."""
    manager = getattr(maker, "sentinel_manager", None)
    return manager.sentinels if manager is not None else []


def _checked(makers: _Makers, url: str, name: str, *, timeout_s: float | None) -> Any:  # noqa: ANN401 - either kind of pool
    """A pool as the maker of connections.

    Raises:
        ConfigurationError: the url is none that redis-py knows.
    """
    options: dict[str, object] = {
        "protocol": 2,
        "client_name": name,
        "socket_timeout": timeout_s,
        "socket_connect_timeout": COMMAND_TIMEOUT_S,
        "decode_responses": False,
    }
    if not url.startswith("unix:"):
        options["socket_keepalive"] = True
    try:
        watched = SentinelUrl.parse(url)
        if watched is None:
            return makers.pool.from_url(url, **options)
        asking = {"socket_timeout": _SENTINEL_TIMEOUT_S, "socket_connect_timeout": _SENTINEL_TIMEOUT_S, "protocol": 2}
        sentinels = makers.sentinels(watched.sentinels, sentinel_kwargs=asking | watched.sentinel_options)
        return makers.sentinel_pool(watched.service, sentinels, ssl=watched.is_tls, **(watched.options | options))
    except ValueError as error:
        raise ConfigurationError(f"--redis-url is wrong: {error}") from error

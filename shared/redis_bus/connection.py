"""Connections to Redis without redis-py's client layer, which doubles the CPU time of a command.

redis-py's `Connection` brings the url, TLS, authentication and the parser. What is added here: one command at a time,
a fresh socket after anything that leaves a reply unread (a cancelled task, a timeout), and our own errors. Nothing is
ever sent twice: whether a command may be repeated is for its caller to know.
"""

import asyncio
import re
import threading
from typing import Any

import redis
import redis.asyncio
from redis.asyncio.connection import AbstractConnection as AsyncRedisConnection

from shared.errors import BusUnavailableError, ConfigurationError, PagestreamError
from shared.redis_bus.scripts import Script

Argument = str | bytes | int | float

_PASSING = ("MISCONF", "NOREPLICAS", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "BUSY ")
OLDEST_VERSION = (6, 2)
COMMAND_TIMEOUT_S = 5.0
"""For connections whose commands answer at once. Those that block in the server have no timeout but TCP's keepalive."""


class AsyncConnection:
    """One connection of an event loop; tasks take turns. Connects on first use, and again after an error.

    Args:
        name: What `CLIENT LIST` shows.
        blocks: Whether its commands wait in the server.
    """

    def __init__(self, url: str, name: str, *, blocks: bool = False) -> None:
        # redis-py's own timeout makes a task for every packet (asyncio.wait_for): a fifth of a command's CPU time.
        pool = _checked(redis.asyncio.ConnectionPool, url, name, timeout_s=None)
        self._connection: AsyncRedisConnection = pool.make_connection()
        self._timeout_s = None if blocks else COMMAND_TIMEOUT_S
        self._turn = asyncio.Lock()

    async def call(self, *command: Argument) -> Any:  # noqa: ANN401 - a reply's shape depends on the command
        """Send one command and return its reply, undecoded.

        Raises:
            redis.ResponseError: the server refuses the command.
            BusUnavailableError: the server does not answer.
        """
        return (await self.call_all([command]))[0]

    async def call_all(self, commands: list[tuple[Argument, ...]]) -> list[Any]:
        """Send commands in one packet and return their replies; raises as `call` does, after reading all of them."""
        async with self._turn:
            try:
                async with asyncio.timeout(self._timeout_s):
                    await self._connection.send_packed_command(self._connection.pack_commands(commands))
                    replies = [await self._reply() for _ in commands]
            except (redis.ConnectionError, redis.TimeoutError, OSError) as error:
                await self._connection.disconnect(nowait=True)
                raise unavailable(error) from error
            except BaseException:
                await self._connection.disconnect(nowait=True)
                raise
        for reply in replies:
            if isinstance(reply, redis.ResponseError):
                raise translated(reply)
        return replies

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
        try:
            return await self.call("EVALSHA", script.sha, len(keys), *keys, *arguments)
        except redis.exceptions.NoScriptError:
            return await self.call("EVAL", script.text, len(keys), *keys, *arguments)

    async def next_reply(self) -> Any:  # noqa: ANN401
        """Wait for something the server sends unasked: a published message; raises as `call` does."""
        try:
            return await self._connection.read_response()
        except (redis.ConnectionError, redis.TimeoutError, OSError) as error:
            await self._connection.disconnect(nowait=True)
            raise unavailable(error) from error

    async def close(self) -> None:
        """Disconnect."""
        await self._connection.disconnect()

    async def _reply(self) -> Any:  # noqa: ANN401
        try:
            return await self._connection.read_response()
        except redis.ResponseError as error:
            return error


class BlockingConnection:
    """One connection of the calling thread; threads take turns. Otherwise as `AsyncConnection`."""

    def __init__(self, url: str, name: str, *, blocks: bool = False) -> None:
        timeout_s = None if blocks else COMMAND_TIMEOUT_S
        self._connection = _checked(redis.ConnectionPool, url, name, timeout_s=timeout_s).make_connection()
        self._turn = threading.Lock()

    def call(self, *command: Argument) -> Any:  # noqa: ANN401
        """Send one command and return its reply, undecoded.

        Raises:
            redis.ResponseError: the server refuses the command.
            BusUnavailableError: the server does not answer.
        """
        with self._turn:
            try:
                self._connection.send_command(*command)
                return self._connection.read_response()
            except redis.ResponseError as error:
                raise translated(error) from error
            except (redis.ConnectionError, redis.TimeoutError, OSError) as error:
                self._connection.disconnect()
                raise unavailable(error) from error
            except BaseException:
                self._connection.disconnect()
                raise

    def greet(self) -> None:
        """Check that a server is there that lets us in and is new enough; raises as `AsyncConnection.greet` does."""
        try:
            check_server(self.call("INFO", "server"))
        except BusUnavailableError as error:
            raise refusal(error) from error

    def run(self, script: Script, keys: list[str], *arguments: Argument) -> Any:  # noqa: ANN401
        """Run a script; raises as `call` does."""
        try:
            return self.call("EVALSHA", script.sha, len(keys), *keys, *arguments)
        except redis.exceptions.NoScriptError:
            return self.call("EVAL", script.text, len(keys), *keys, *arguments)

    def close(self) -> None:
        """Disconnect."""
        self._connection.disconnect()


def unavailable(error: Exception) -> BusUnavailableError:
    """The error of ours for what goes wrong below the commands."""
    return BusUnavailableError(f"Redis does not answer: {error}")


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


def _checked(pool: type[Any], url: str, name: str, *, timeout_s: float | None) -> Any:  # noqa: ANN401 - either kind of pool
    """A pool as the maker of connections.

    Raises:
        ConfigurationError: the url is none that redis-py knows.
    """
    options: dict[str, object] = {} if url.startswith("unix:") else {"socket_keepalive": True}
    try:
        return pool.from_url(
            url,
            protocol=2,
            client_name=name,
            socket_timeout=timeout_s,
            socket_connect_timeout=COMMAND_TIMEOUT_S,
            decode_responses=False,
            **options,
        )
    except ValueError as error:
        raise ConfigurationError(f"--redis-url is wrong: {error}") from error

"""How a connection to Redis is opened and what its errors mean, whether it waits or blocks.

redis-py knows urls, TLS, authentication, and how to ask sentinels who the primary is.
"""

import re
from typing import Any, Final, NamedTuple

import hiredis
import redis
import redis.asyncio
import redis.asyncio.sentinel
import redis.sentinel
from redis._parsers import BaseParser

from shared.errors import BusUnavailableError, ConfigurationError, PagestreamError
from shared.redis_bus.route import Route
from shared.redis_bus.sentinel_url import SentinelUrl

Argument = str | bytes | int | float

_PASSING: Final = (
    redis.ReadOnlyError,
    redis.exceptions.OutOfMemoryError,
    redis.exceptions.TryAgainError,
    redis.exceptions.ClusterDownError,
    redis.exceptions.AskError,
)
_PASSING_WORDS: Final = ("MISCONF", "NOREPLICAS", "BUSY ")
"""Of errors for which redis-py has no class of their own."""

UNREACHABLE: Final = (redis.ConnectionError, redis.TimeoutError, redis.InvalidResponse, OSError)
"""What goes wrong below the commands."""

OLDEST_VERSION = (6, 2)
_SENTINEL_TIMEOUT_S: Final = 1.0
COMMAND_TIMEOUT_S = 5.0
"""For a connection and for a reply, beyond the time that a command may wait in the server."""


class Makers(NamedTuple):
    """redis-py's pools, which make connections, and its way to ask sentinels; of one kind."""

    pool: type[Any]
    sentinel_pool: type[Any]
    sentinels: type[Any]


ASYNC: Final = Makers(
    redis.asyncio.ConnectionPool, redis.asyncio.sentinel.SentinelConnectionPool, redis.asyncio.sentinel.Sentinel
)
BLOCKING: Final = Makers(redis.ConnectionPool, redis.sentinel.SentinelConnectionPool, redis.sentinel.Sentinel)


def sentinels_of(maker: Any) -> list[Any]:  # noqa: ANN401 - either kind of pool
    """The clients by which a pool asks sentinels; none if it asks nobody."""
    manager = getattr(maker, "sentinel_manager", None)
    return manager.sentinels if manager is not None else []


def route_of(url: str) -> Route:
    """The way to a server.

    Raises:
        ConfigurationError: the url is wrong.
    """
    try:
        return Route.of(url)
    except ValueError as error:
        raise ConfigurationError(f"--redis-url is wrong: {error}") from error


def maker_of(makers: Makers, url: str, name: str, *, timeout_s: float | None) -> Any:  # noqa: ANN401 - either kind of pool
    """A pool as the maker of connections.

    Raises:
        ConfigurationError: the url is none that redis-py knows.
    """
    options: dict[str, object] = {
        "protocol": 2,
        "client_name": name,
        "driver_info": None,  # CLIENT SETINFO: unknown before Redis 7.2, and no right of the services' user
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


def reply_parser() -> hiredis.Reader:
    """Makes replies of bytes; those that are errors are redis-py's, and not raised."""
    return hiredis.Reader(protocolError=redis.InvalidResponse, replyError=BaseParser.parse_error)


def block(timeout_s: float) -> tuple[Argument, ...]:
    """The words with which a command of streams is told how long to wait; none for not at all."""
    return ("BLOCK", max(1, int(timeout_s * 1000))) if timeout_s > 0 else ()


def unavailable(error: Exception) -> BusUnavailableError:
    """The error of ours for what goes wrong below the commands."""
    return BusUnavailableError(f"Redis does not answer: {str(error) or 'no reply in time'}")


def translated(error: redis.ResponseError) -> Exception:
    """The error itself, or ours if the server says that it cannot serve now, whatever the command."""
    is_passing = isinstance(error, _PASSING) or str(error).startswith(_PASSING_WORDS)
    return unavailable(error) if is_passing else error


def refusal(error: BusUnavailableError) -> PagestreamError:
    """The error to show at start: a wrong password does not become right by waiting."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, redis.AuthenticationError):
        cause = cause.__cause__
    if cause is None:
        return error
    return ConfigurationError(f"--redis-url: Redis does not accept the user or the password: {cause}")


def check_server(info: bytes, route: Route) -> None:
    """Read the server's own description.

    Raises:
        ConfigurationError: it is older than what the bus needs, or a node of a cluster that the url does not speak of.
    """
    if b"redis_mode:cluster" in info and not route.is_cluster:
        raise ConfigurationError("--redis-url: this Redis is a node of a cluster; say redis+cluster://host:port")
    found = re.search(rb"redis_version:(\d+)\.(\d+)", info)
    if found and tuple(map(int, found.groups())) < OLDEST_VERSION:
        raise ConfigurationError(f"--redis-url: Redis {b'.'.join(found.groups()).decode()} is too old, 6.2 is needed")


def server_process(info: bytes) -> str:
    """Read the name that a server process gives itself, from its own description."""
    found = re.search(rb"run_id:(\w+)", info)
    return found.group(1).decode() if found else ""

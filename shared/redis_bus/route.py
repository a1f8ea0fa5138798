"""Which server a connection goes to, and whether a command that failed is sent once more. Pure.

In a cluster a pool lives on one slot, so on one primary at a time: no map of the slots is kept. A connection begins at
any node of its url, is told by the first command about the pool where that is, and goes there.

Source: Redis Cluster specification, "Redirection and resharding".
"""

from collections.abc import Sequence
from itertools import cycle
from typing import Final, NamedTuple, Self
from urllib.parse import urlsplit, urlunsplit

import redis
from redis.exceptions import MovedError

_SUFFIX: Final = "+cluster"
_PORT: Final = 6379
_FORM: Final = "redis+cluster://host:port[,host:port]"
_MOST_REDIRECTS: Final = 4


class Address(NamedTuple):
    """Of a server."""

    host: str
    port: int


class Route:
    """Where to go next.

    Args:
        url: As redis-py reads it, of the only server or the first node.
        nodes: Of a cluster; empty where there is none.

    Attributes:
        num_servers: How many the url names.
    """

    def __init__(self, url: str, nodes: Sequence[Address] = ()) -> None:
        self.url = url
        self.is_cluster = bool(nodes)
        self.num_servers = max(1, len(nodes))
        self._nodes = cycle(nodes)
        self._here: Address | None = None
        self._pool_at: Address | None = None

    @classmethod
    def of(cls, url: str) -> Self:
        """By a url: `redis+cluster://[user:password@]host:port[,host:port...]`, or any other; `rediss+cluster` is TLS.

        Raises:
            ValueError: a part of it is missing or wrong.
        """
        parts = urlsplit(url)
        if not parts.scheme.endswith(_SUFFIX):
            return cls(url)
        login, at, hosts = parts.netloc.rpartition("@")
        nodes = [_address(host) for host in hosts.split(",")]
        if parts.path.strip("/") not in {"", "0"}:
            raise ValueError(f"a cluster has one database, and it is not {parts.path.strip('/')!r}; say {_FORM}")
        first = hosts.partition(",")[0]
        plain = parts._replace(scheme=parts.scheme.removesuffix(_SUFFIX), netloc=f"{login}{at}{first}", path="/0")
        return cls(urlunsplit(plain), nodes)

    def next(self) -> Address | None:
        """The server to connect to; None for that of the url."""
        if self.is_cluster:
            self._here = self._pool_at or next(self._nodes)
        return self._here

    def moved(self, error: MovedError) -> None:
        """The pool is elsewhere. A node that has no name for another one means its own."""
        self._pool_at = Address(error.host or (self._here.host if self._here else ""), error.port)

    def lost(self) -> None:
        """The server is not there, or has closed the connection: any other node knows more."""
        self._pool_at = None


class Attempts:
    """What may still be tried for one command."""

    def __init__(self, route: Route, *, is_repeatable: bool) -> None:
        self._route = route
        self._may_repeat = is_repeatable
        self._num_redirects = 0

    def go_on(self, error: MovedError | redis.ConnectionError) -> bool:
        """Whether to send it again, by another connection. One that was redirected has not been executed."""
        if isinstance(error, MovedError):
            self._route.moved(error)
            self._num_redirects += 1
            return self._route.is_cluster and self._num_redirects <= _MOST_REDIRECTS
        self._route.lost()
        may_repeat, self._may_repeat = self._may_repeat, False
        return may_repeat


def _address(text: str) -> Address:
    parts = urlsplit(f"//{text}")
    if not parts.hostname:
        raise ValueError(f"{text!r} is no node's address; the url should look like {_FORM}")
    return Address(parts.hostname, parts.port or _PORT)

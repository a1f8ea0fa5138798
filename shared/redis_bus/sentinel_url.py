"""The url of a Redis that Sentinel watches: `redis+sentinel://[user:password@]host:port[,host:port...]/service[/db]`.

The user and the password are the data server's; those of the sentinels are the options `sentinel_username` and
`sentinel_password` behind a question mark, where redis-py's own options may stand, too. `rediss+sentinel` is TLS.
"""

from typing import Any, Final, NamedTuple, Self
from urllib.parse import unquote, urlsplit

from redis.connection import parse_url

_SUFFIX: Final = "+sentinel"
_PORT: Final = 26379
_FORM: Final = "redis+sentinel://host:port[,host:port]/service[/db]"


class SentinelUrl(NamedTuple):
    """Who knows the primary, what they call it, and how to connect to it.

    Attributes:
        sentinels: Host and port of each.
        service: The name of the primary that the sentinels watch.
        sentinel_options: redis-py's arguments for a connection to a sentinel.
        options: Those for a connection to the primary, but for host and port.
        is_tls: Whether the primary is spoken to by TLS.
    """

    sentinels: list[tuple[str, int]]
    service: str
    sentinel_options: dict[str, Any]
    options: dict[str, Any]
    is_tls: bool

    @classmethod
    def parse(cls, url: str) -> Self | None:
        """Read a url; None if it is one of another kind.

        Raises:
            ValueError: a part of it is missing or wrong.
        """
        parts = urlsplit(url)
        if not parts.scheme.endswith(_SUFFIX):
            return None
        service, _, database = parts.path.strip("/").partition("/")
        login, _, hosts = parts.netloc.rpartition("@")
        if not service or not hosts:
            raise ValueError(f"{url} names no sentinel or no service; it should look like {_FORM}")
        scheme = parts.scheme.removesuffix(_SUFFIX)
        options = dict(parse_url(f"{scheme}://{login}@primary:0/{database or 0}?{parts.query}"))  # type: ignore[no-untyped-call]
        options = {name: value for name, value in options.items() if name not in {"host", "port", "connection_class"}}
        of_sentinels = ("username", "password")
        sentinel_options = {
            name: options.pop(f"sentinel_{name}") for name in of_sentinels if f"sentinel_{name}" in options
        }
        sentinels = [_address(host) for host in hosts.split(",")]
        return cls(sentinels, unquote(service), sentinel_options, options, scheme == "rediss")


def _address(text: str) -> tuple[str, int]:
    parts = urlsplit(f"//{text}")
    if not parts.hostname:
        raise ValueError(f"{text!r} is no sentinel's address; the url should look like {_FORM}")
    return parts.hostname, parts.port or _PORT

"""API keys, known by their hashes. A key is random, so that its hash alone does not give it away."""

import hmac
import tomllib
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Final

import msgspec

from shared.errors import AuthenticationError, ConfigurationError

_Limit = Annotated[int, msgspec.Meta(ge=1)]


class ApiKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is known of one key, and what its owner may do.

    Attributes:
        name: Of the owner; keys of one owner have one name, and share what is kept under it.
        sha256: Of the key, in hexadecimal digits.
        admin: Whether it may look at everybody's.
        shares_prefix_cache: Whether others that share, too, can notice by the time that an answer takes that a prompt
            begins as one of this owner's does.
        max_num_requests: Requests at a time, on each gateway.
        max_num_tokens: Tokens of their prompts, estimated at 4 bytes each, on each gateway.
    """

    name: str
    sha256: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
    admin: bool = False
    shares_prefix_cache: bool = False
    max_num_requests: _Limit | None = None
    max_num_tokens: _Limit | None = None

    def salt(self, asked: str) -> str:
        """With whom a prompt's prefix is shared: with others of the same salt.

        Args:
            asked: The request's own salt; empty if it has none.
        """
        if self.shares_prefix_cache:
            return asked
        return sha256("\0".join((self.name, asked)).encode()).hexdigest()[:32]


class _KeyFile(msgspec.Struct, forbid_unknown_fields=True):
    key: list[ApiKey]


ANYBODY: Final = ApiKey(name="", sha256=sha256(b"").hexdigest(), admin=True, shares_prefix_cache=True)
"""Whoever calls where no key is wanted."""

_OURSELVES: Final = ApiKey(name="pagestream", sha256=ANYBODY.sha256)
"""This process, where keys are wanted: it works on batches."""


def digest(key: str) -> str:
    """How a key is known."""
    return sha256(key.encode()).hexdigest()


class Keyring:
    """The keys of one gateway. Without any, everybody is let in."""

    def __init__(self, keys: Iterable[ApiKey] = ()) -> None:
        self._keys = tuple(keys)

    @classmethod
    def load(cls, plain_keys: Iterable[str], file: str | None) -> "Keyring":
        """The keys of the command line, which have no limits and share one name, and those of a file.

        Args:
            plain_keys: As clients send them.
            file: TOML, with a table `[[key]]` for each.

        Raises:
            ConfigurationError: the file cannot be read, or says something wrong.
        """
        keys = [ApiKey(name="default", sha256=digest(key), shares_prefix_cache=True) for key in plain_keys]
        if file is not None:
            try:
                found = msgspec.convert(tomllib.loads(Path(file).read_text()), _KeyFile)
            except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
                raise ConfigurationError(f"--api-key-file {file}: {error}") from error
            keys += found.key
        return cls(keys)

    @property
    def local(self) -> ApiKey:
        """What this process itself calls with."""
        return _OURSELVES if self._keys else ANYBODY

    def owner_of(self, authorization: str) -> ApiKey:
        """Whose key a request brings.

        Args:
            authorization: The header.

        Raises:
            AuthenticationError: there is none, or not one of ours.
        """
        if not self._keys:
            return ANYBODY
        scheme, _, given = authorization.partition(" ")
        found = digest(given.strip())
        matches = [key for key in self._keys if hmac.compare_digest(found, key.sha256)]
        if scheme.lower() != "bearer" or not matches:
            raise AuthenticationError(
                "Incorrect API key provided; send one of this server's keys as 'Authorization: Bearer KEY'",
                code="invalid_api_key",
            )
        return matches[0]

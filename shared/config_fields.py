"""Typed fields of a model's configuration, and in whose file one is missing."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from shared.errors import CheckpointError

_T = TypeVar("_T")


class ConfigFields:
    """Reads fields of a config.json or of GGUF metadata."""

    def __init__(self, values: Mapping[str, object], source: str, *, prefix: str = "") -> None:
        """Keep what there is.

        Args:
            values: By name.
            source: The file, for messages.
            prefix: Of every name that is asked for.
        """
        self.values = values
        self.source = source
        self._prefix = prefix

    def get(self, name: str, kind: type[_T], default: _T | None = None) -> _T:
        """A field; what is absent or null is the default.

        Raises:
            CheckpointError: it is of another type, or absent without a default.
        """
        value = self.values.get(self._prefix + name)
        if value is None:
            value = default
        if kind is float and isinstance(value, int):
            value = float(value)
        if not isinstance(value, kind):
            found = "is missing" if value is None else f"is {value!r}"
            raise CheckpointError(f"{self.source}: {self._prefix}{name} {found}, expected {kind.__name__}")
        return value

    def optional(self, name: str, kind: type[_T]) -> _T | None:
        """As `get`; None where it is absent or null."""
        return None if self.values.get(self._prefix + name) is None else self.get(name, kind)

    def within(self, name: str, values: Mapping[str, object]) -> "ConfigFields":
        """Fields of an object in this one."""
        return ConfigFields(values, f"{self.source}: {name}")


def token_ids(value: object) -> list[int]:
    """Token ids as configs write them: one, several, or none."""
    if isinstance(value, int):
        return [value]
    return [int(item) for item in value] if isinstance(value, list) else []


def read_json(path: Path) -> dict[str, object]:
    """An object from a file.

    Raises:
        CheckpointError: it cannot be read, or holds something else.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot read {path}: {error}") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{path} holds no JSON object")
    return found

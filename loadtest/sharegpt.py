"""The public file of ShareGPT conversations: `[{"conversations": [{"from": "human", "value": "..."}, ...]}, ...]`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from shared.errors import ConfigurationError

_EXAMPLE: Final = '[{"conversations": [{"from": "human", "value": "..."}, {"from": "gpt", "value": "..."}]}]'


class _Said(msgspec.Struct, frozen=True):
    value: str


class _Entry(msgspec.Struct, frozen=True):
    conversations: tuple[_Said, ...] = ()


def read_sharegpt(path: Path | None) -> list[tuple[str, str]]:
    """Each conversation's first question and the answer that was given to it.

    Raises:
        ConfigurationError: there is no such file, or it holds something else.
    """
    if path is None:
        raise ConfigurationError("--dataset-name sharegpt needs --dataset-path, the JSON file of the conversations")
    try:
        entries = msgspec.json.decode(path.expanduser().read_bytes(), type=list[_Entry])
    except OSError as error:
        raise ConfigurationError(f"--dataset-path {path} cannot be read: {error.strerror}; name a JSON file") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"--dataset-path {path} is no ShareGPT file: {error}; it must look like {_EXAMPLE}"
        ) from error
    pairs = list(_first_exchanges(entries))
    if not pairs:
        raise ConfigurationError(
            f"--dataset-path {path} has no conversation of two turns or more; it must look like {_EXAMPLE}"
        )
    return pairs


def _first_exchanges(entries: list[_Entry]) -> Iterator[tuple[str, str]]:
    for entry in entries:
        if len(entry.conversations) > 1:
            question, answer = entry.conversations[:2]
            yield question.value, answer.value

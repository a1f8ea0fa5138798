"""A tokenizer out of a Hugging Face directory: `tokenizer.json` and the small files beside it."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import tokenizers

from gateway.tokenizers.chat_template import ChatTemplate
from gateway.tokenizers.tokenizer import Tokenizer
from shared.errors import CheckpointError

_SPECIAL_TOKENS: Final = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


def tokenizer_from_directory(directory: Path, eos_token_ids: Sequence[int] = ()) -> Tokenizer:
    """Build the tokenizer.

    Args:
        directory: Holds `tokenizer.json`, and as a rule `tokenizer_config.json` and `generation_config.json`.
        eos_token_ids: Tokens that end an answer, beyond those that these files name.

    Raises:
        CheckpointError: a file is missing or cannot be read.
    """
    path = directory / "tokenizer.json"
    if not path.is_file():
        raise CheckpointError(
            f"{directory} has no tokenizer.json; put the model's fast tokenizer there (save_pretrained of transformers)"
        )
    try:
        backend = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    backend.no_truncation()
    backend.no_padding()
    config = _read_json(directory / "tokenizer_config.json")
    special_tokens = {name: text for name in _SPECIAL_TOKENS if (text := _token_text(config.get(name))) is not None}
    eos = _ids(_read_json(directory / "generation_config.json").get("eos_token_id"))
    if not eos and (named := backend.token_to_id(special_tokens.get("eos_token", ""))) is not None:
        eos = [named]
    source = _template_source(directory, config)
    return Tokenizer(
        backend,
        eos_token_ids=[*eos, *eos_token_ids],
        chat_template=None if source is None else ChatTemplate(source, special_tokens),
        special_tokens=special_tokens,
    )


def _read_json(path: Path) -> Mapping[str, object]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise CheckpointError(f"{path} is no valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}; expected an object")
    return content


def _template_source(directory: Path, config: Mapping[str, object]) -> str | None:
    """A file of its own wins; several templates in the config are named, and chats use `default`."""
    path = directory / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    source = _read_json(directory / "chat_template.json").get("chat_template", config.get("chat_template"))
    if isinstance(source, list):
        by_name = {entry.get("name"): entry.get("template") for entry in source if isinstance(entry, dict)}
        source = by_name.get("default")
    return source if isinstance(source, str) else None


def _token_text(value: object) -> str | None:
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None


def _ids(value: object) -> list[int]:
    values = value if isinstance(value, list) else [value]
    return [token_id for token_id in values if isinstance(token_id, int)]

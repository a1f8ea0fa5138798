"""The tokenizer that belongs to a model's files, whatever their format."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from gateway.tokenizers.gguf_tokenizer import tokenizer_from_gguf
from gateway.tokenizers.huggingface_tokenizer import tokenizer_from_directory
from gateway.tokenizers.tokenizer import Tokenizer
from shared.checkpoint import Checkpoint, resolve
from shared.demo_model import DEMO
from shared.errors import CheckpointError
from shared.gguf_file import GGUFFile
from shared.model_config import ModelConfig

_WANTED: Final = ("tokenizer*", "vocab*", "merges*", "special_tokens_map.json", "generation_config.json")


def load_tokenizer(checkpoint: Checkpoint, config: ModelConfig) -> Tokenizer:
    """Build a model's tokenizer.

    Raises:
        CheckpointError: the files describe a tokenizer that is not supported, or none.
    """
    return build_tokenizer(checkpoint, config.eos_token_ids)


def build_tokenizer(checkpoint: Checkpoint, eos_token_ids: Sequence[int] = ()) -> Tokenizer:
    """Build a tokenizer from its own files.

    Args:
        checkpoint: Of a model, or what `find_tokenizer` found.
        eos_token_ids: Tokens that end an answer, beyond those that these files name.

    Raises:
        CheckpointError: the files describe a tokenizer that is not supported, or none.
    """
    if checkpoint.format == "gguf":
        return tokenizer_from_gguf(GGUFFile.open(checkpoint.path).metadata, eos_token_ids)
    return tokenizer_from_directory(checkpoint.path, eos_token_ids)


def find_tokenizer(name: str) -> Checkpoint:
    """The files of a tokenizer. No weights are fetched, but for the demo model's one file.

    Args:
        name: "demo", a *.gguf file, a directory with tokenizer.json, or a hub id.

    Raises:
        CheckpointError: there is no such tokenizer.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return Checkpoint(path.resolve().name, path, "huggingface")
    if name == DEMO or path.suffix == ".gguf":
        return resolve(name)
    return Checkpoint(name, _download(name), "huggingface")


def _download(repository: str) -> Path:
    # Only a repository of the hub needs this: 0.3 s of import.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repository, allow_patterns=list(_WANTED)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise CheckpointError(f"neither on this disk nor fetched from the hub ({reason})") from error

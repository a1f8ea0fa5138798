"""The tokenizer that prompts are measured with, wherever it is: no server is asked."""

from pathlib import Path
from typing import Final

from gateway.gguf_tokenizer import tokenizer_from_gguf
from gateway.huggingface_tokenizer import tokenizer_from_directory
from gateway.tokenizer import Tokenizer
from shared.checkpoint import resolve
from shared.demo_model import DEMO
from shared.errors import CheckpointError, ConfigurationError
from shared.gguf_file import GGUFFile

_WANTED: Final = ("tokenizer*", "vocab*", "merges*", "special_tokens_map.json", "generation_config.json")


def load_tokenizer(name: str) -> Tokenizer:
    """Build it. No weights are fetched, but for the demo model's one file.

    Args:
        name: "demo", a *.gguf file, a directory with tokenizer.json, or a hub id.

    Raises:
        ConfigurationError: there is no such tokenizer, or it cannot be read.
    """
    try:
        path = Path(name).expanduser()
        if path.is_dir():
            return tokenizer_from_directory(path)
        if name == DEMO or path.suffix == ".gguf":
            return tokenizer_from_gguf(GGUFFile.open(resolve(name).path).metadata)
        return tokenizer_from_directory(_download(name))
    except CheckpointError as error:
        raise ConfigurationError(
            f"no tokenizer {name!r}: {error}; "
            "give --tokenizer the path, hub id or 'demo' that the server's model was made from"
        ) from error


def _download(repository: str) -> Path:
    # Only a repository of the hub needs this: 0.3 s of import.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repository, allow_patterns=list(_WANTED)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise CheckpointError(f"neither on this disk nor fetched from the hub ({reason})") from error

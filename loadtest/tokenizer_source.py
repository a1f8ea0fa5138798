"""The tokenizer that prompts are measured with, wherever it is: no server is asked."""

from functools import lru_cache

from gateway.tokenizers.tokenizer import Tokenizer
from gateway.tokenizers.tokenizer_loading import build_tokenizer, find_tokenizer
from shared.errors import CheckpointError, ConfigurationError


@lru_cache(maxsize=1)
def load_tokenizer(name: str) -> Tokenizer:
    """Find it, and build it, or give the one that was built last: many runs are measured with one tokenizer.

    Args:
        name: "demo", a *.gguf file, a directory with tokenizer.json, or a hub id.

    Raises:
        ConfigurationError: there is no such tokenizer, or it cannot be read.
    """
    try:
        return build_tokenizer(find_tokenizer(name))
    except CheckpointError as error:
        raise ConfigurationError(
            f"no tokenizer {name!r}: {error}; "
            "give --tokenizer the path, hub id or 'demo' that the server's model was made from"
        ) from error

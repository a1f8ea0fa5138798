"""The tokenizer of a model's files as the text of a `tokenizer.json`, whatever their format."""

from shared.checkpoint import Checkpoint
from shared.errors import CheckpointError
from shared.gguf_file import GGUFFile
from shared.gguf_tokenizer import tokenizer_from_gguf


def tokenizer_json(checkpoint: Checkpoint) -> str:
    """Read it, or build it: about 0.4 s for a GGUF file with 50,000 tokens.

    Raises:
        CheckpointError: the files describe no tokenizer, or one that is not supported.
    """
    if checkpoint.format == "gguf":
        return str(tokenizer_from_gguf(GGUFFile.open(checkpoint.path).metadata).to_str())
    path = checkpoint.path / "tokenizer.json"
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"cannot read {path}: {error}") from error

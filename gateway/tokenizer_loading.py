"""The tokenizer that belongs to a model's files, whatever their format."""

from gateway.gguf_tokenizer import tokenizer_from_gguf
from gateway.huggingface_tokenizer import tokenizer_from_directory
from gateway.tokenizer import Tokenizer
from shared.checkpoint import Checkpoint
from shared.gguf_file import GGUFFile
from shared.model_config import ModelConfig


def load_tokenizer(checkpoint: Checkpoint, config: ModelConfig) -> Tokenizer:
    """Build the tokenizer.

    Raises:
        CheckpointError: the files describe a tokenizer that is not supported, or none.
    """
    if checkpoint.format == "gguf":
        return tokenizer_from_gguf(GGUFFile.open(checkpoint.path).metadata, config.eos_token_ids)
    return tokenizer_from_directory(checkpoint.path, config.eos_token_ids)

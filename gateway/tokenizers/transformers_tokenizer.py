"""A model's tokenizer as a class of transformers', for people's own code."""

import tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from shared.checkpoint import Checkpoint
from shared.gguf_file import GGUFFile
from shared.model_config import ModelConfig
from shared.tokenizer_file import tokenizer_json


def transformers_tokenizer(checkpoint: Checkpoint) -> PreTrainedTokenizerBase:
    """The same tokens, and the chat template if the model has one.

    Raises:
        CheckpointError: the files describe a tokenizer that is not supported, or none.
    """
    if checkpoint.format == "huggingface":
        loaded: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(checkpoint.path)
        return loaded
    file = GGUFFile.open(checkpoint.path)
    config = ModelConfig.from_gguf(file)
    backend = tokenizers.Tokenizer.from_str(tokenizer_json(checkpoint))
    bos = None if config.bos_token_id is None else backend.id_to_token(config.bos_token_id)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token=bos, eos_token=backend.id_to_token(config.eos_token_ids[0])
    )
    template = file.metadata.get("tokenizer.chat_template")
    if isinstance(template, str):
        tokenizer.chat_template = template
    return tokenizer

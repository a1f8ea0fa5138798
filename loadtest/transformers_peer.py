"""The served model in transformers, on the very same weights: the tests' oracle and the benchmarks' floor."""

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedModel
from transformers.initialization import no_init_weights

from gpu_worker.weights import open_weights
from shared.checkpoint import Checkpoint
from shared.errors import CheckpointError
from shared.model_config import ModelConfig


def load_in_transformers(checkpoint: Checkpoint) -> PreTrainedModel:
    """The transformers model of a checkpoint of the Llama family, in fp32 on the CPU.

    Raises:
        CheckpointError: its files cannot be read, or a GGUF file stretches its positions.
    """
    if checkpoint.format == "huggingface":
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(checkpoint.path, dtype=torch.float32)
    else:
        model = _load_gguf(checkpoint)
    model.eval()
    return model


def _load_gguf(checkpoint: Checkpoint) -> LlamaForCausalLM:
    config = ModelConfig.from_checkpoint(checkpoint)
    weights = open_weights(checkpoint, config, dtype=torch.float32, device=torch.device("cpu"))
    if config.rope_scaling.rope_type != "default" or weights.rotary_divisors() is not None:
        raise CheckpointError(
            f"{checkpoint.path} stretches its positions, which is not handed on to transformers; "
            "name the model's Hugging Face directory instead"
        )
    llama = LlamaConfig(
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.num_hidden_layers,
        num_attention_heads=config.num_attention_heads,
        num_key_value_heads=config.num_key_value_heads,
        head_dim=config.head_dim,
        vocab_size=config.vocab_size,
        max_position_embeddings=config.max_position_embeddings,
        rms_norm_eps=config.rms_norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
        tie_word_embeddings=config.tie_word_embeddings,
        attention_bias=config.attention_bias,
        mlp_bias=config.mlp_bias,
        bos_token_id=config.bos_token_id,
        eos_token_id=config.eos_token_ids[0],
    )
    with no_init_weights():  # or all of them are drawn at random first
        model = LlamaForCausalLM(llama)
    tied = {"lm_head.weight"} if config.tie_word_embeddings else set()
    tensors = {name: weights.get(name) for name in model.state_dict() if name not in tied}
    model.load_state_dict(tensors, strict=not tied, assign=True)
    model.tie_weights()
    return model


def generate(model: PreTrainedModel, prompts: list[list[int]], *, max_tokens: int, ignore_eos: bool) -> list[list[int]]:
    """Greedy continuations of prompts of one length, as one static batch."""
    input_ids = torch.tensor(prompts)
    generated = model.generate(
        input_ids,
        attention_mask=torch.ones_like(input_ids),
        max_new_tokens=max_tokens,
        min_new_tokens=max_tokens if ignore_eos else 0,
        do_sample=False,
        pad_token_id=model.config.eos_token_id,
    )
    return [row[len(prompts[0]) :].tolist() for row in generated]

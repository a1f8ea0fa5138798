"""The served model in transformers, on the very same weights: the tests' oracle and the benchmarks' floor."""

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from gpu_worker.weights import open_weights
from shared.checkpoint import Checkpoint
from shared.model_config import ModelConfig


def load_in_transformers(checkpoint: Checkpoint) -> LlamaForCausalLM:
    """The transformers model of a Llama-family checkpoint with tied embeddings, in fp32 on the CPU."""
    config = ModelConfig.from_checkpoint(checkpoint)
    weights = open_weights(checkpoint, config, dtype=torch.float32, device=torch.device("cpu"))
    model = LlamaForCausalLM(
        LlamaConfig(
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.num_hidden_layers,
            num_attention_heads=config.num_attention_heads,
            num_key_value_heads=config.num_key_value_heads,
            vocab_size=config.vocab_size,
            max_position_embeddings=config.max_position_embeddings,
            rms_norm_eps=config.rms_norm_eps,
            rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
            tie_word_embeddings=True,
            bos_token_id=config.bos_token_id,
            eos_token_id=config.eos_token_ids[0],
        )
    )
    names = [name for name in model.state_dict() if name != "lm_head.weight"]
    model.load_state_dict({name: weights.get(name) for name in names}, strict=False)
    model.eval()  # type: ignore[no-untyped-call]
    return model


def generate(
    model: LlamaForCausalLM, prompts: list[list[int]], *, max_tokens: int, ignore_eos: bool
) -> list[list[int]]:
    """Greedy continuations of prompts of one length, as one static batch."""
    input_ids = torch.tensor(prompts)
    generated = model.generate(  # type: ignore[misc]  # transformers types it on a protocol of its own
        input_ids,
        attention_mask=torch.ones_like(input_ids),
        max_new_tokens=max_tokens,
        min_new_tokens=max_tokens if ignore_eos else 0,
        do_sample=False,
        pad_token_id=model.config.eos_token_id,
    )
    return [row[len(prompts[0]) :].tolist() for row in generated]

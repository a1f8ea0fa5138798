"""What the runner asks of a model, whoever's code computes it."""

from typing import Protocol

from torch import Tensor

from gpu_worker.kv_cache import KVCache
from gpu_worker.step_input import StepInput


class Model(Protocol):
    """One model in memory. The keys and values it writes belong to the cache."""

    def forward(self, step: StepInput, cache: KVCache) -> Tensor:
        """Logits of the tokens that are followed by a new one, [num_sampled, vocab_size] float32."""

    def hidden_states(self, step: StepInput, cache: KVCache) -> Tensor:
        """Compute a step's tokens; the last hidden states of all of them, [num_tokens, hidden_size]."""

    def logits(self, hidden: Tensor) -> Tensor:
        """From last hidden states [num_tokens, hidden_size] to logits, [num_tokens, vocab_size] float32."""

"""Arguments of vLLM's `LLM` that have no counterpart here: which may be given, and what is said of the others."""

import difflib
from collections.abc import Collection, Mapping
from typing import Final

_NO_EFFECT: Final = frozenset(
    {"allowed_local_media_path", "allowed_media_domains", "async_scheduling", "compilation_config"}
    | {"disable_custom_all_reduce", "disable_log_stats", "max_logprobs", "optimization_level"}
    | {"swap_space", "trust_remote_code", "use_tqdm_on_load"}
)
"""These choose between ways that pagestream does not have, or bound what is not bounded here."""

_SERVED_AT: Final[Mapping[str, tuple[object, ...]]] = {
    "config_format": ("auto",),
    "convert": ("auto", "none"),
    "cpu_offload_gb": (0,),
    "data_parallel_size": (1,),
    "distributed_executor_backend": ("mp", "uni"),
    "enable_chunked_prefill": (True,),
    "enable_expert_parallel": (False,),
    "enable_lora": (False,),
    "enable_prompt_embeds": (False,),
    "enable_sleep_mode": (False,),
    "generation_config": ("auto",),
    "hf_overrides": ({},),
    "kv_transfer_config": (),
    "limit_mm_per_prompt": ({},),
    "load_format": ("auto",),
    "logits_processors": ([],),
    "model_impl": ("auto",),
    "num_gpu_blocks_override": (),
    "pipeline_parallel_size": (1,),
    "pooler_config": (),
    "prefix_caching_hash_algo": ("sha256",),
    "revision": (),
    "runner": ("auto", "generate", "pooling"),
    "scheduling_policy": ("fcfs", "priority"),
    "skip_tokenizer_init": (False,),
    "spec_method": (),
    "spec_model": (),
    "spec_tokens": (),
    "speculative_config": (),
    "task": ("auto", "generate"),
    "tensor_parallel_size": (1,),
    "tokenizer_mode": ("auto",),
    "tokenizer_revision": (),
}
"""Those that would change something, with the values at which they do not. None always is such a value."""


def check_others(others: Mapping[str, object], known: Collection[str]) -> None:
    """Let arguments pass that change nothing.

    Args:
        others: What was given beside the arguments of `LLM`.
        known: The names of these.

    Raises:
        TypeError: one of them is not served, or nobody knows it.
    """
    for name, value in others.items():
        if name in _SERVED_AT:
            served = _SERVED_AT[name]
            if value is not None and value not in served:
                raise TypeError(_not_served(name, value, served))
        elif name not in _NO_EFFECT:
            similar = difflib.get_close_matches(name, [*known, *_SERVED_AT], n=1)
            hint = f"did you mean {similar[0]!r}?" if similar else f"it takes {', '.join(sorted(known))}"
            raise TypeError(f"LLM() takes no argument {name!r}; {hint}")


def _not_served(name: str, value: object, served: Collection[object]) -> str:
    if not served:
        return f"LLM() does not serve {name}, got {value!r}; leave it out"
    return f"LLM() serves {name}={' or '.join(map(repr, served))} only, not {value!r}; leave it out"

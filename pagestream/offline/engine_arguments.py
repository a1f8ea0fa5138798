"""Arguments of vLLM's `LLM` that have no counterpart here: which may be given, and what is said of the others."""

import difflib
from collections.abc import Collection, Mapping
from typing import Final

_NO_EFFECT: Final = frozenset({"trust_remote_code", "disable_log_stats", "swap_space"})
"""These choose between ways that pagestream does not have."""

_SERVED_AT: Final[Mapping[str, tuple[object, ...]]] = {
    "config_format": ("auto",),
    "cpu_offload_gb": (0,),
    "data_parallel_size": (1,),
    "enable_chunked_prefill": (True,),
    "enable_lora": (False,),
    "load_format": ("auto",),
    "pipeline_parallel_size": (1,),
    "runner": ("auto", "generate"),
    "skip_tokenizer_init": (False,),
    "task": ("auto", "generate"),
    "tensor_parallel_size": (1,),
    "tokenizer_mode": ("auto",),
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
                raise TypeError(
                    f"LLM() serves {name}={' or '.join(map(repr, served))} only, not {value!r}; leave it out"
                )
        elif name not in _NO_EFFECT:
            similar = difflib.get_close_matches(name, [*known, *_SERVED_AT], n=1)
            hint = f"did you mean {similar[0]!r}?" if similar else f"it takes {', '.join(sorted(known))}"
            raise TypeError(f"LLM() takes no argument {name!r}; {hint}")

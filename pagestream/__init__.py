"""pagestream: the command line, the local stack and the offline API: `from pagestream import LLM, SamplingParams`."""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    # For people's type checkers; at run time each name is imported when it is first asked for, see `__getattr__`.
    from pagestream.offline.beam_search import BeamSearchOutput, BeamSearchParams, BeamSearchSequence
    from pagestream.offline.llm import LLM
    from pagestream.offline.outputs import CompletionOutput, Logprob, RequestMetrics, RequestOutput
    from pagestream.offline.pooling import EmbeddingOutput, EmbeddingRequestOutput, PoolingParams, PoolingRequestOutput
    from pagestream.offline.sampling_params import SamplingParams, StructuredOutputsParams

__all__ = [
    "LLM",
    "BeamSearchOutput",
    "BeamSearchParams",
    "BeamSearchSequence",
    "CompletionOutput",
    "EmbeddingOutput",
    "EmbeddingRequestOutput",
    "Logprob",
    "PoolingParams",
    "PoolingRequestOutput",
    "RequestMetrics",
    "RequestOutput",
    "SamplingParams",
    "StructuredOutputsParams",
]

_MODULES: Final = {
    "LLM": "llm",
    "BeamSearchOutput": "beam_search",
    "BeamSearchParams": "beam_search",
    "BeamSearchSequence": "beam_search",
    "CompletionOutput": "outputs",
    "EmbeddingOutput": "pooling",
    "EmbeddingRequestOutput": "pooling",
    "Logprob": "outputs",
    "PoolingParams": "pooling",
    "PoolingRequestOutput": "pooling",
    "RequestMetrics": "outputs",
    "RequestOutput": "outputs",
    "SamplingParams": "sampling_params",
    "StructuredOutputsParams": "sampling_params",
}
"""Where in `pagestream.offline` each name is."""


def __getattr__(name: str) -> Any:  # noqa: ANN401 - whatever the module has
    """Import a part of the offline API: the commands do without torch and transformers."""
    if name not in _MODULES:
        raise AttributeError(f"module 'pagestream' has no attribute {name!r}")
    return getattr(import_module(f"pagestream.offline.{_MODULES[name]}"), name)

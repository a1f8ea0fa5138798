"""Prompts as vectors. Names are vLLM's where vLLM has them."""

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from gateway.embeddings.vectors import finished
from pagestream.offline.argument_checks import Range, wrong
from pagestream.offline.generation import Generation
from pagestream.offline.progress_bar import BarMaker
from pagestream.offline.prompts import Prompt
from pagestream.offline.request_loop import RequestLoop
from pagestream.offline.sampling_params import SamplingParams
from pagestream.offline.wire_requests import Request
from shared.errors import RequestError
from shared.sampling import Pooling

if TYPE_CHECKING:
    import torch

_POOLINGS: Final = {"last": Pooling.LAST, "mean": Pooling.MEAN}
_NO_OUTPUT: Final = SamplingParams(temperature=0.0, max_tokens=1, detokenize=False)
_DIMENSIONS: Final = Range(Integral, 1, may_be_none=True)


@dataclass(slots=True)
class PoolingParams:
    """How a prompt becomes a vector.

    Attributes:
        dimensions: Leading numbers that are kept; None for all.
        normalize: Make its length 1.
        pooling: The last hidden state of the last token, or the mean of all tokens'.
    """

    dimensions: int | None = None
    normalize: bool = True
    pooling: Literal["last", "mean"] = "last"

    def __post_init__(self) -> None:
        self.verify()

    def verify(self) -> None:
        """Check every field.

        Raises:
            InvalidArgumentError: one has a value that it cannot have.
        """
        _DIMENSIONS.check("dimensions", self.dimensions)
        if self.pooling not in _POOLINGS:
            raise wrong("pooling", self.pooling, " or ".join(map(repr, _POOLINGS)))


@dataclass(frozen=True, slots=True)
class PoolingOutput:
    """A vector.

    Attributes:
        data: [dimensions] float32.
    """

    data: "torch.Tensor"


@dataclass(frozen=True, slots=True)
class EmbeddingOutput:
    """A vector as plain numbers."""

    embedding: list[float]

    @property
    def hidden_size(self) -> int:
        """Its dimensions."""
        return len(self.embedding)


@dataclass(frozen=True, slots=True)
class EmbeddingRequestOutput:
    """A prompt and its vector."""

    request_id: str
    outputs: EmbeddingOutput
    prompt_token_ids: list[int]
    num_cached_tokens: int
    finished: bool = True


@dataclass(frozen=True, slots=True)
class PoolingRequestOutput:
    """A prompt and its vector."""

    request_id: str
    outputs: PoolingOutput
    prompt_token_ids: list[int]
    num_cached_tokens: int
    finished: bool = True


def embed(
    loop: RequestLoop, prompts: Sequence[Prompt], params: PoolingParams, *, use_tqdm: bool | BarMaker
) -> list[EmbeddingRequestOutput]:
    """The vectors of prompts.

    Raises:
        InvalidRequestError: a prompt or a parameter is wrong; nothing has been run.
        RequestError: the model could not compute one.
    """
    params.verify()
    requests = [Request(prompt, _NO_OUTPUT, pooling=_POOLINGS[params.pooling]) for prompt in prompts]
    return [
        EmbeddingRequestOutput(
            generation.request_id,
            EmbeddingOutput(_vector(generation, params)),
            generation.prompt.token_ids,
            generation.num_cached_tokens,
        )
        for generation in loop.run(requests, use_tqdm=use_tqdm)
    ]


def as_tensors(outputs: Sequence[EmbeddingRequestOutput]) -> list[PoolingRequestOutput]:
    """The same vectors as tensors."""
    # The worker has loaded it.
    import torch

    return [
        PoolingRequestOutput(
            output.request_id,
            PoolingOutput(torch.tensor(output.outputs.embedding)),
            output.prompt_token_ids,
            output.num_cached_tokens,
        )
        for output in outputs
    ]


def _vector(generation: Generation, params: PoolingParams) -> list[float]:
    if generation.embedding is None:
        raise RequestError(generation.error or "the worker told no embedding")
    if params.normalize:
        unit = finished(generation.embedding, params.dimensions, "float")
        assert isinstance(unit, list)
        return unit
    numbers: list[float] = np.frombuffer(generation.embedding, "<f4")[: params.dimensions].tolist()
    return numbers

"""CUDA graphs: the launches of a whole step, recorded once and repeated by one call."""

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor


@cache
def _pool() -> torch.cuda.MemPool:
    """Memory that all graphs share: one runs at a time, and nobody needs what another one left but its output.

    An output is held by the tensor that `capture` keeps, so that no later graph is given its memory. The pool is kept
    here, since one that the last graph has left cannot be entered again.
    """
    return torch.cuda.MemPool()


def capture(compute: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """See `Ops.capture`.

    Source: the notes on CUDA graphs in PyTorch's documentation.
    """
    # Compiles kernels and opens cuBLAS, which cannot be done while a graph is recorded; on a stream of its own, as
    # PyTorch asks for, since the graph is recorded on another one than the current.
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        compute()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=_pool().id):  # type: ignore[arg-type]  # not typed as a handle
        output = compute()

    def repeat() -> Tensor:
        graph.replay()
        return output

    return repeat

"""The command `pagestream plan`."""

from typing import Annotated, Final, Literal

import typer

from pagestream.options import AsJson, parse_count

_DEFAULT_CONTEXT: Final = 4096

Model = Annotated[
    str,
    typer.Argument(
        help='A directory, a config.json, a *.gguf file, a hub id, "demo", or a well-known name such as Llama-3-70B.'
    ),
]
MaxModelLen = Annotated[
    int | None,
    typer.Option(
        parser=parse_count,
        metavar="COUNT",
        help=f"Tokens of one request, prompt and output. Default: {_DEFAULT_CONTEXT}, or the model's if that is less.",
    ),
]
MaxNumSeqs = Annotated[int, typer.Option(parser=parse_count, metavar="COUNT", help="Requests at the same time.")]
BlockSize = Annotated[int, typer.Option(parser=parse_count, metavar="COUNT", help="Tokens per block of the KV cache.")]
KvCacheDtype = Annotated[
    Literal["auto", "fp32", "fp16", "bf16", "fp8", "int8"],
    typer.Option(help="Type of keys and values; auto is 16 bit, int8 has a scale for each token and head."),
]
GpuMemory = Annotated[
    int, typer.Option(parser=parse_count, metavar="BYTES", help="Memory of one GPU.", show_default="80G")
]
GpuMemoryUtilization = Annotated[
    float, typer.Option(min=0.01, max=1.0, help="Part of it for weights and cache; the rest is for activations.")
]
TensorParallelSize = Annotated[
    int | None,
    typer.Option(
        "--tensor-parallel-size",
        "-tp",
        parser=parse_count,
        metavar="COUNT",
        help="So many GPUs. Default: the fewest that hold the weights and the requests.",
    ),
]


def plan(
    model: Model,
    *,
    max_model_len: MaxModelLen = None,
    max_num_seqs: MaxNumSeqs = 1,
    block_size: BlockSize = 16,
    kv_cache_dtype: KvCacheDtype = "auto",
    gpu_memory: GpuMemory = 80 * 2**30,
    gpu_memory_utilization: GpuMemoryUtilization = 0.92,
    tensor_parallel_size: TensorParallelSize = None,
    as_json: AsJson = False,
) -> int:
    """Say what MODEL takes of memory: its KV cache, its weights, and the fewest GPUs."""
    # What reads files and draws tables: 0.3 s that the services do without.
    from rich.console import Console

    from pagestream.planning.memory import KV_FORMATS, Gpu, Load
    from pagestream.planning.model_source import find_shape
    from pagestream.planning.plan import make_plan
    from pagestream.planning.report import as_json as plan_as_json
    from pagestream.planning.report import show

    shape = find_shape(model)
    load = Load(
        context=max_model_len or min(_DEFAULT_CONTEXT, shape.max_context),
        num_sequences=max_num_seqs,
        block_size=block_size,
        kv_format=KV_FORMATS[kv_cache_dtype],
    )
    gpu = Gpu(gpu_memory, gpu_memory_utilization)
    found = make_plan(model, shape, load, gpu, kv_cache_dtype=kv_cache_dtype, num_gpus=tensor_parallel_size)
    if as_json:
        typer.echo(plan_as_json(found))
    else:
        show(found, Console(highlight=False))
    return 0

"""`pagestream quantize`: make an AWQ, GPTQ, FP8 or int8 checkpoint out of a model."""

from pathlib import Path
from typing import Annotated

import typer

from pagestream import options
from shared.checkpoint import resolve


def quantize(
    model: options.Model,
    *,
    to: Annotated[str, typer.Option("--to", help="The format: awq, gptq, fp8 or int8.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The new directory.")],
    group_size: Annotated[int, typer.Option(min=8, help="Columns that share a scale, of awq and gptq.")] = 128,
) -> int:
    """Round a model's weights to the nearest, and write a checkpoint that this and other servers read."""
    # torch: 2 s that the other commands do not need.
    from gpu_worker.quantized_checkpoint import write_quantized

    count = write_quantized(resolve(model), output, to=to, group_size=group_size)
    typer.echo(f"{output}: {count} matrices as {to}")
    return 0

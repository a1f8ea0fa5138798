"""`make roofline`: the tables of docs/roofline.md, from the arithmetic of `kernels.roofline`."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from kernels.roofline import (
    GPUS,
    LLAMA_8B,
    WEIGHT_FORMATS,
    DecoderSize,
    Gpu,
    StepLoad,
    expected_seconds,
    roof_seconds,
    step_work,
)

PAGE: Final = Path(__file__).parents[1] / "docs" / "roofline.md"
MARKS: Final = ("<!-- make roofline -->", "<!-- to here -->")
"""Around the tables in the page."""

_DECODE: Final = (32, 1024)
_PROMPT: Final = 2048
_BATCHES: Final = (1, 8, 32, 128)


def tables(size: DecoderSize = LLAMA_8B) -> str:
    """All of them, in Markdown."""
    return "\n".join(_lines(size))


def _lines(size: DecoderSize) -> Iterator[str]:
    yield "### The roofs"
    yield ""
    yield from _table(
        ("GPU", "memory, GB", "TB/s", "TFLOP/s, bf16", "TFLOP/s, fp8", "FLOPs a byte where the roof bends"),
        (
            (
                gpu.name,
                f"{gpu.memory_bytes / 1e9:.0f}",
                f"{gpu.bytes_per_s / 1e12:.2f}",
                f"{gpu.flops_per_s / 1e12:.0f}",
                f"{gpu.fp8_flops_per_s / 1e12:.0f}" if gpu.fp8_flops_per_s else "as bf16",
                f"{gpu.flops_per_s / gpu.bytes_per_s:.0f}",
            )
            for gpu in GPUS.values()
        ),
    )
    num_seqs, context = _DECODE
    yield from _kernels(f"Decode: {num_seqs} sequences of {context:,} tokens", size, StepLoad.decode(num_seqs, context))
    yield from _kernels(f"Prefill: a prompt of {_PROMPT:,} tokens", size, StepLoad.prefill(_PROMPT))
    yield "### Steps"
    yield ""
    yield f"Milliseconds at the roof; tokens/s at the roof and as expected; decodes at a context of {context:,} tokens."
    yield ""
    yield from _table(("weights", "step", *(gpu.name for gpu in GPUS.values())), _steps(size, context))


def _kernels(title: str, size: DecoderSize, load: StepLoad) -> Iterator[str]:
    yield f"### {title}"
    yield ""
    works = step_work(size, load)
    rows = [
        (
            work.kernel,
            f"{work.num_bytes / 1e6:,.1f}",
            f"{work.flops / 1e9:,.1f}" if work.flops else "",
            f"{work.flops / work.num_bytes:,.1f}" if work.flops else "",
            *(f"{work.seconds(gpu) * 1e6:,.0f}" for gpu in GPUS.values()),
        )
        for work in works
    ]
    sums = (
        "**the step**",
        f"{sum(work.num_bytes for work in works) / 1e6:,.1f}",
        f"{sum(work.flops for work in works) / 1e9:,.1f}",
        "",
        *(f"{roof_seconds(size, load, gpu) * 1e6:,.0f}" for gpu in GPUS.values()),
    )
    heads = ("kernel, all layers", "MB", "GFLOP", "FLOPs a byte", *(f"{gpu.name}, µs" for gpu in GPUS.values()))
    yield from _table(heads, [*rows, sums])


def _steps(size: DecoderSize, context: int) -> Iterator[tuple[str, ...]]:
    loads = [(f"decode {count}", StepLoad.decode(count, context)) for count in _BATCHES]
    loads.append((f"prefill {_PROMPT:,}", StepLoad.prefill(_PROMPT)))
    for weights in WEIGHT_FORMATS:
        stored = replace(size, weights=weights)
        for name, load in loads:
            yield weights.name, name, *(_cell(stored, load, gpu) for gpu in GPUS.values())


def _cell(size: DecoderSize, load: StepLoad, gpu: Gpu) -> str:
    roof, expected = roof_seconds(size, load, gpu), expected_seconds(size, load, gpu)
    return f"{roof * 1e3:.2f} ms: {load.num_tokens / roof:,.0f}, {load.num_tokens / expected:,.0f}"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield _row(heads)
    yield _row(["---", *("---:" for _ in heads[1:])])
    yield from map(_row, rows)
    yield ""


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    print(tables())

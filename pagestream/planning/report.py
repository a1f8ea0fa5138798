"""A plan on the terminal, or as JSON."""

from functools import partial
from typing import Any, Final

import msgspec
from rich.console import Console
from rich.table import Table

from pagestream.planning.memory import KV_FORMATS
from pagestream.planning.plan import Plan

_UNITS: Final = ("bytes", "KiB", "MiB", "GiB", "TiB")
_STEP: Final = 1024


def as_size(num_bytes: float) -> str:
    """Three digits and a unit: "1.25 GiB"."""
    unit = 0
    while num_bytes >= _STEP and unit < len(_UNITS) - 1:
        num_bytes /= _STEP
        unit += 1
    digits = f"{num_bytes:.0f}" if num_bytes >= 100 or unit == 0 else f"{num_bytes:.3g}"  # noqa: PLR2004
    return f"{digits} {_UNITS[unit]}"


def as_json(plan: Plan) -> str:
    """All of it, indented."""
    content: Any = plan._asdict() | {"weights": [_row_as_dict(row) for row in plan.weights]}
    return msgspec.json.format(msgspec.json.encode(content), indent=2).decode()


def _row_as_dict(row: Any) -> dict[str, object]:  # noqa: ANN401 - a named tuple
    fields: dict[str, object] = row._asdict()
    return fields | {"fit": None if row.fit is None else row.fit._asdict()}


def show(plan: Plan, console: Console) -> None:
    """The cache's arithmetic in words, and a row for each way to store the weights."""
    say = partial(console.print, markup=False, soft_wrap=True)
    numbers = KV_FORMATS[plan.kv_cache_dtype]
    scale = f" + {numbers.scale_bytes}" if numbers.scale_bytes else ""
    row = f"({plan.head_dim} x {numbers.number_bytes}{scale}) bytes"
    say(
        f"{plan.model}: {plan.num_parameters / 1e9:,.2f} billion parameters, "
        f"{plan.num_attention_heads} attention heads, {plan.num_key_value_heads} key-value heads"
    )
    say(
        f"KV cache: 2 x {plan.num_hidden_layers} layers x {plan.num_key_value_heads} heads x {row} = "
        f"{as_size(plan.kv_bytes_per_token)} a token"
    )
    say(
        f"{as_size(plan.kv_bytes_per_request)} a request of {plan.max_model_len:,} tokens, "
        f"{as_size(plan.kv_bytes_per_batch)} for {plan.max_num_seqs:,} at once"
    )
    say(
        f"GPUs of {as_size(plan.gpu_memory_bytes)}, {plan.gpu_memory_utilization:.0%} of it for weights and cache, "
        f"blocks of {plan.block_size} tokens:"
    )
    console.print(_table(plan))


def _table(plan: Plan) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("weights")
    for heading in ("size", "GPUs", "KV cache", "blocks", f"sequences of {plan.max_model_len:,}"):
        table.add_column(heading, justify="right")
    for weights, size, fit in plan.weights:
        if fit is None:
            table.add_row(weights, as_size(size), "too large", "", "", "")
        else:
            counts = (f"{fit.num_blocks:,}", f"{fit.num_sequences:,}")
            table.add_row(weights, as_size(size), str(fit.num_gpus), as_size(fit.cache_bytes), *counts)
    return table

"""How a pool is, for people and for programs."""

import msgspec
from rich.console import Console
from rich.table import Table

from shared.redis_bus.observer import PoolView


def as_json(view: PoolView) -> str:
    """One line: {"scheduler": what it says or null, "workers": [what each of them says]}."""
    return msgspec.json.encode({"scheduler": view.status, "workers": view.workers}).decode()


def show(view: PoolView, console: Console) -> None:
    """A line about the pool, and a row for each worker."""
    if view.status is not None:
        status = view.status
        console.print(
            f"{status.model or 'no model yet'}: {status.num_workers} workers, {status.num_running} sequences running, "
            f"{status.num_waiting} waiting, {status.kv_cache_usage:.0%} of the KV cache in use (epoch {status.epoch})",
            markup=False,
            soft_wrap=True,
        )
    if view.workers:
        console.print(_table(view))


def _table(view: PoolView) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("worker", "host", "device", "model"):
        table.add_column(heading)
    for heading in ("last step", "plans queued", "blocks"):
        table.add_column(heading, justify="right")
    for worker in view.workers:
        capabilities = worker.capabilities
        table.add_row(
            *(worker.worker_id, worker.host, capabilities.device, capabilities.model),
            *(str(worker.last_step), str(worker.num_queued_plans), str(capabilities.num_blocks)),
        )
    return table

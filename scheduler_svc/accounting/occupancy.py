"""How full the caches of blocks are. Pure."""

from collections.abc import Collection

from scheduler_svc.scheduling.worker import Worker


def kv_cache_usage(workers: Collection[Worker]) -> float:
    """Held blocks of these workers, from 0 to 1."""
    total = sum(worker.pool.num_blocks for worker in workers)
    free = sum(worker.pool.num_free for worker in workers)
    return 1 - free / total if total else 0.0


def kv_cache_unused_ratio(workers: Collection[Worker]) -> float:
    """Slots that no token has, of all slots of held blocks, from 0 to 1. Tokens of plans in flight have theirs."""
    held = sum(worker.num_held_slots for worker in workers)
    unused = sum(worker.num_unused_slots for worker in workers)
    return unused / held if held else 0.0

"""What `system_fingerprint` is made of: whatever of this system can change an output. Pure."""

import functools
from hashlib import blake2b
from typing import Final

import msgspec

from shared.messages import PoolStatus, WorkerCapabilities

_WHAT_MATTERS: Final = ("model", "device", "kernels", "dtype", "kv_cache_dtype", "quantization")


def fingerprint(version: str, status: PoolStatus | None) -> str:
    """A name for the software and what the live workers compute with. Requests of equal seeds can compare it."""
    workers = status.workers.values() if status else ()
    return _name(version, frozenset(map(_what_matters, workers)))


def _what_matters(capabilities: WorkerCapabilities) -> tuple[str, ...]:
    return tuple(str(getattr(capabilities, name)) for name in _WHAT_MATTERS)


@functools.lru_cache(maxsize=16)
def _name(version: str, workers: frozenset[tuple[str, ...]]) -> str:
    return f"fp_{blake2b(msgspec.json.encode([version, sorted(workers)]), digest_size=5).hexdigest()}"

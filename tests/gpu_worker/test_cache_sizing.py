import pytest
import torch

from gpu_worker.cache_sizing import MemoryUse, cache_memory_bytes
from shared.errors import ConfigurationError

CPU = torch.device("cpu")
GIB = 2**30


def test_a_gpu_leaves_what_the_largest_step_and_the_driver_do_not_take() -> None:
    use = MemoryUse(total=80 * GIB, free=60 * GIB, reserved=17 * GIB, peak=19 * GIB)
    assert use.left(0.8) == 64 * GIB - 19 * GIB - 1 * GIB
    assert use.left(0.9) == 72 * GIB - 19 * GIB - 1 * GIB
    assert use.left(1.0) == 60 * GIB - (19 - 17) * GIB, "it must be there"


def test_processes_share_a_gpu_by_a_share_each() -> None:
    first = MemoryUse(total=80 * GIB, free=78 * GIB, reserved=1 * GIB, peak=2 * GIB)
    second = MemoryUse(total=80 * GIB, free=78 * GIB - first.left(0.3), reserved=1 * GIB, peak=2 * GIB)
    assert second.left(0.3) == first.left(0.3) == 24 * GIB - 3 * GIB


def test_nothing_left_says_what_to_do() -> None:
    use = MemoryUse(total=16 * GIB, free=1 * GIB, reserved=8 * GIB, peak=9 * GIB)
    with pytest.raises(ConfigurationError, match=r"utilization 0.9 of 16.0 GiB.*9.0 GiB.*1.0 GiB.*nothing is left"):
        use.left(0.9)


def test_a_cpu_takes_what_it_is_told_or_a_share_of_its_memory() -> None:
    def never() -> None:
        raise AssertionError("only a GPU needs to see it")

    def found(told: int | None) -> int:
        return cache_memory_bytes(CPU, kv_cache_memory_bytes=told, gpu_memory_utilization=0.9, run_largest_step=never)

    assert found(5) == 5
    assert 1 << 20 < found(None) <= 4 << 30

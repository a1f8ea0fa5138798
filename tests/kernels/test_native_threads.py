"""The thread team ends every loop, with the same bits, whoever else wants the processors."""

import faulthandler
import os
import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context

import pytest
import torch

from kernels.arguments import Linear, PagedBatch
from kernels.native_build import runnable_variants
from kernels.ops import Ops

NUM_LOOPS = int(os.environ.get("THREAD_TEAM_LOOPS", "5000"))
PATIENCE_S = 60 + NUM_LOOPS / 500
pytestmark = pytest.mark.parametrize("library_path", runnable_variants()[:1], indirect=True)
"""The team is the same in every instruction set."""

NOBODY = PagedBatch(torch.zeros(1).int(), torch.zeros(0).int(), torch.zeros(0, 1).int(), 16)


@pytest.fixture(autouse=True)
def _hangs_are_shown() -> Iterator[None]:
    """A loop that never ends holds its thread in C++, where no exception reaches it: show all stacks and die."""
    faulthandler.dump_traceback_later(PATIENCE_S, exit=True, file=sys.__stderr__)
    yield
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture(autouse=True)
def _keeps_the_number_of_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def linear(ops: Ops) -> Linear:
    """Large enough to be shared out, small enough that threads meet at its edges all the time."""
    return ops.pack_linear([torch.randn(1024, 64, generator=torch.Generator().manual_seed(1))], None)


def use_threads(ops: Ops, num_threads: int) -> None:
    """The ops follow PyTorch once a step, when attention is planned."""
    torch.set_num_threads(num_threads)
    ops.plan_attention(NOBODY)


@contextmanager
def busy_processes(count: int) -> Iterator[None]:
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def numbers(seed: int) -> torch.Tensor:
    return torch.randn(2, 64, generator=torch.Generator().manual_seed(seed))


def test_loops_end_with_the_same_bits_beside_busy_processes_and_changing_teams(ops: Ops, linear: Linear) -> None:
    inputs = [numbers(seed) for seed in range(8)]
    use_threads(ops, 1)
    expected = [linear(x) for x in inputs]
    choice = random.Random(5)
    with busy_processes(2):
        for loop in range(NUM_LOOPS):
            if loop % 50 == 0:
                use_threads(ops, choice.choice((1, 2, 3, 4, 8)))
            which = choice.randrange(len(inputs))
            assert torch.equal(linear(inputs[which]), expected[which])


def test_callers_at_the_same_time_do_not_mix(ops: Ops, linear: Linear) -> None:
    use_threads(ops, 4)
    inputs = [numbers(seed) for seed in range(4)]
    expected = [linear(x) for x in inputs]

    def call_often(which: int) -> bool:
        return all(torch.equal(linear(inputs[which]), expected[which]) for _ in range(NUM_LOOPS // 10))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(call_often, range(4)))


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_process_computes_without_its_parents_threads(ops: Ops, linear: Linear) -> None:
    use_threads(ops, 4)
    x = numbers(1)
    expected = linear(x)
    context = get_context("fork")
    answers = context.SimpleQueue()
    is_over = threading.Event()

    def keep_the_team_busy() -> None:
        while not is_over.wait(timeout=0.0002):
            linear(x)

    with ThreadPoolExecutor(1) as pool:
        pool.submit(keep_the_team_busy)
        for _ in range(100):
            child = context.Process(target=lambda: answers.put(linear(x).tolist()))
            child.start()
            child.join(PATIENCE_S / 2)
            assert child.exitcode == 0
            assert answers.get() == expected.tolist()
        is_over.set()

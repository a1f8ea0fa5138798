"""That a step's parts are its own: they are all there, and with the rest they are the whole."""

import pytest
import torch

from gpu_worker.ops_selection import choose_ops
from loadtest.step_profile import BATCHES, StepProfiler, as_table
from loadtest.timed_ops import PARTS, Stopwatch, timed_ops
from shared.checkpoint import Checkpoint


def test_timed_ops_give_the_same_numbers_and_book_their_time() -> None:
    ops, watch = choose_ops(torch.device("cpu"), block_size=16, head_dim=64), Stopwatch()
    timed = timed_ops(ops, watch, vocab_size=48)
    x, weight = torch.randn(3, 64), torch.randn(32, 64)
    assert torch.equal(timed.pack_linear([weight], None)(x), ops.pack_linear([weight], None)(x))
    assert {part for part, spent in watch.take_ms().items() if spent} == {"linears"}
    timed.pack_linear([weight, weight[:16]], None)(x)
    assert {part for part, spent in watch.take_ms().items() if spent} == {"head"}
    timed.pack_embedding(weight).head()(x)
    timed.argmax(x)
    assert {part for part, spent in watch.take_ms().items() if spent} == {"head", "sampling"}
    assert not any(watch.take_ms().values())


@pytest.mark.model
def test_the_parts_of_a_step_add_up_to_it(demo: Checkpoint) -> None:
    profiler = StepProfiler(demo, max_num_seqs=2)
    rows = {"2": profiler.decode(2, 3, prompt_len=20), "prefill": profiler.prefill(2, prompt_len=20)}
    assert [len(profile["linears"]) for profile in rows.values()] == [3, 2]
    for profile in rows.values():
        assert all(times and min(times) > 0 for times in profile.values())
        wholes = [sum(times) for times in zip(*(profile[part] for part in (*PARTS, "the rest")), strict=True)]
        assert wholes == pytest.approx(profile["whole step"])
    header, _, *lines = as_table(rows).splitlines()
    assert len(lines) == 2
    assert all(line.count("|") == header.count("|") for line in lines)
    assert BATCHES == (1, 8, 32)

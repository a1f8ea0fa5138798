"""`make bench-step`: where the milliseconds of one step go, in one process: no bus, no HTTP, greedy.

Rows are a prefill of one prompt, and steps in which every sequence gets one token. Each figure is the least and the
median over the steps, on its own: the leasts of a row need not come from one step, nor add up to that of the whole.
"""

import os

# As in the worker. Read when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # isort: split

import argparse
import statistics
import time
from collections.abc import Iterator, Sequence
from typing import Final

import torch

from gpu_worker.model_runner import ModelRunner
from gpu_worker.ops_selection import choose_ops
from gpu_worker.runner import StepOutput
from loadtest.local_steps import greedy, steps
from loadtest.timed_ops import PARTS, Stopwatch, timed_ops
from shared.checkpoint import Checkpoint, resolve
from shared.messages import StepPlan
from shared.model_config import ModelConfig
from shared.packing import unpack_u32

PROMPT_LEN: Final = 128
BATCHES: Final = (1, 8, 32)
_NUM_STEPS: Final = 40
_NUM_PREFILLS: Final = 20
_BLOCK_SIZE: Final = 16
_CACHE_BYTES: Final = 1 << 30
_WHOLE, _REST = "whole step", "the rest"

Profile = dict[str, list[float]]
"""Milliseconds of each part, step by step; with the whole step, and what of it is in no part."""


class StepProfiler:
    """One model whose ops are timed, and the steps it is measured with.

    Args:
        checkpoint: Of the model.
        max_num_seqs: Sequences of the largest batch.
    """

    def __init__(self, checkpoint: Checkpoint, *, max_num_seqs: int) -> None:
        config = ModelConfig.from_checkpoint(checkpoint)
        ops = choose_ops(torch.device("cpu"), block_size=_BLOCK_SIZE, head_dim=config.head_dim)
        self.kernels = ops.name
        self._vocab_size = config.vocab_size
        self._watch = Stopwatch()
        self._runner = ModelRunner.load(
            checkpoint,
            dtype="auto",
            kv_cache_dtype="auto",
            quantization=None,
            block_size=_BLOCK_SIZE,
            kv_cache_memory_bytes=_CACHE_BYTES,
            gpu_memory_utilization=1.0,
            max_model_len=None,
            max_num_seqs=max_num_seqs,
            max_num_batched_tokens=max(512, max_num_seqs),
            enable_prefix_caching=False,
            device="cpu",
            model_name=checkpoint.name,
            ops=timed_ops(ops, self._watch, vocab_size=config.vocab_size),
        )

    def prefill(self, num_steps: int, *, prompt_len: int = PROMPT_LEN) -> Profile:
        """Compute one prompt a step, and its first token. One more comes first, to warm up."""
        profiles = [_only(self._steps(1, prompt_len, max_tokens=1)) for _ in range(num_steps + 1)]
        return _by_part(profiles[1:])

    def decode(self, num_seqs: int, num_steps: int, *, prompt_len: int = PROMPT_LEN) -> Profile:
        """Compute one token of each sequence a step."""
        profiled = self._steps(num_seqs, prompt_len, max_tokens=num_steps + num_seqs * prompt_len)
        profiles = []
        for plan, profile in profiled:
            if list(unpack_u32(plan.num_tokens)) == [1] * num_seqs:
                profiles.append(profile)
            if len(profiles) > num_steps:
                break
        return _by_part(profiles[1:])

    def _steps(self, num_seqs: int, prompt_len: int, *, max_tokens: int) -> Iterator[tuple[StepPlan, dict[str, float]]]:
        profile: dict[str, float] = {}

        def timed(plan: StepPlan) -> StepOutput:
            self._watch.take_ms()
            started = time.perf_counter_ns()
            output = self._runner.step(plan)
            whole_ms = (time.perf_counter_ns() - started) / 1e6
            parts = self._watch.take_ms()
            profile.update(parts | {_REST: whole_ms - sum(parts.values()), _WHOLE: whole_ms})
            return output

        prompts = [
            [(index * 31 + position * 7) % self._vocab_size for position in range(prompt_len)]
            for index in range(num_seqs)
        ]
        for plan in steps(self._runner, greedy(prompts, max_tokens=max_tokens), timed):
            yield plan, dict(profile)


def _only(steps: Iterator[tuple[StepPlan, dict[str, float]]]) -> dict[str, float]:
    ((_, profile),) = steps
    return profile


def _by_part(profiles: Sequence[dict[str, float]]) -> Profile:
    return {part: [profile[part] for profile in profiles] for part in (*PARTS, _REST, _WHOLE)}


def as_table(rows: dict[str, Profile]) -> str:
    """A table for people and for Markdown: least / median of every part, ms.

    Args:
        rows: By their titles.
    """
    columns = (*PARTS, _REST, _WHOLE)
    lines = [f"| sequences | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for title, profile in rows.items():
        cells = [f"{min(profile[part]):.2f} / {statistics.median(profile[part]):.2f}" for part in columns]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="demo")
    model = parser.parse_args().model
    profiler = StepProfiler(resolve(model), max_num_seqs=max(BATCHES))
    rows = {str(batch): profiler.decode(batch, _NUM_STEPS) for batch in BATCHES}
    rows["prefill"] = profiler.prefill(_NUM_PREFILLS)
    print(f"{model}, {profiler.kernels} kernels, {torch.get_num_threads()} threads, prompts of {PROMPT_LEN} tokens")
    print("ms, least / median")
    print(as_table(rows))


if __name__ == "__main__":
    main()

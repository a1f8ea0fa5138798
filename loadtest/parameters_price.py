"""`make bench-parameters`: what sampling parameters add to a step of 32 sequences, in one process: no bus, no HTTP.

Two groups of 32 sequences decode in turns, step by step: one greedy, one with parameters. So both meet the same
machine, and the ratio of their medians is what the parameters cost.
"""

import os

# As in the worker. Read when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # isort: split

import argparse
import json
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Final

import torch

from gpu_worker.model_runner import ModelRunner
from shared.checkpoint import resolve
from shared.ids import GatewayId, Handle, RequestId, Slot
from shared.messages import Admitted, StepPlan
from shared.packing import pack_u16, pack_u32
from shared.sampling import SamplingParams

NUM_SEQS: Final = 32
_PROMPT_LEN: Final = 64
_NUM_STEPS: Final = 40
_NUM_WARM_UP: Final = 3
_BLOCK_SIZE: Final = 16
_NUM_BLOCKS: Final = -(-(_PROMPT_LEN + _NUM_STEPS + _NUM_WARM_UP + 1) // _BLOCK_SIZE)
_CACHE_BYTES: Final = 1 << 30
_MAX_TOKENS: Final = 10_000
_SCHEMA: Final = {"type": "array", "items": {"type": "string"}, "minItems": 1_000}
"""No output ends before the measurement does."""

Parameters = dict[str, object]
"""Some of the fields of `SamplingParams`."""

_PENALTIES: Final[Parameters] = {"presence_penalty": 0.5, "frequency_penalty": 0.2, "repetition_penalty": 1.1}
_BIAS: Final[Parameters] = {"logit_bias": tuple((token, -1.5) for token in range(1_000, 1_050))}
_MIN_P: Final[Parameters] = {"temperature": 0.8, "min_p": 0.05}
_GRAMMAR: Final[Parameters] = {"grammar": f"start: %json {json.dumps(_SCHEMA)}"}
_GREEDY: Final[Parameters] = {"temperature": 0.0}
_LOGPROBS: Final[Parameters] = {"logprobs": 5}

KINDS: Final[Mapping[str, Sequence[Parameters]]] = {
    "penalties": [_GREEDY | _PENALTIES],
    "bias": [_GREEDY | _BIAS],
    "min_p, random": [_MIN_P],
    "grammar": [_GREEDY | _GRAMMAR],
    "logprobs 5": [_GREEDY | _LOGPROBS],
    "mixed": [_MIN_P | _PENALTIES, _GREEDY | _GRAMMAR, _MIN_P | _BIAS, _MIN_P | _PENALTIES | _BIAS | _GRAMMAR],
}
"""By title, the parameters that the sequences have in turn."""


def parameters_of(kinds: Sequence[Parameters]) -> list[SamplingParams]:
    """One for each sequence of a group."""
    plain: Parameters = {"max_tokens": _MAX_TOKENS}
    return [
        SamplingParams(**(plain | {"seed": row} | kinds[row % len(kinds)]))  # type: ignore[arg-type]
        for row in range(NUM_SEQS)
    ]


class Group:
    """Sequences that run side by side, with blocks of their own for all that they will compute."""

    def __init__(self, runner: ModelRunner, first_slot: int, parameters: Sequence[SamplingParams]) -> None:
        self._runner = runner
        self._slots = range(first_slot, first_slot + len(parameters))
        for slot, sampling in zip(self._slots, parameters, strict=True):
            prompt = [(slot * 31 + place * 7) % 40_000 for place in range(_PROMPT_LEN)]
            blocks = range(slot * _NUM_BLOCKS, (slot + 1) * _NUM_BLOCKS)
            admitted = Admitted(
                slot=Slot(slot),
                request_id=RequestId(f"r{slot}"),
                choice=0,
                gateway_id=GatewayId("g"),
                handle=Handle(slot),
                tokens=pack_u32(prompt),
                num_prompt_tokens=_PROMPT_LEN,
                num_computed_tokens=0,
                num_cached_tokens=0,
                blocks=pack_u32(blocks),
                sampling=sampling,
            )
            plan = StepPlan(admitted=(admitted,), slots=pack_u16([slot]), num_tokens=pack_u32([_PROMPT_LEN]))
            self._runner.step(plan)

    def decode(self) -> float:
        """Compute one token of each sequence; milliseconds."""
        plan = StepPlan(slots=pack_u16(self._slots), num_tokens=pack_u32([1] * len(self._slots)))
        started = time.perf_counter_ns()
        output = self._runner.step(plan)
        spent_ms = (time.perf_counter_ns() - started) / 1e6
        assert len(output.rows) == len(self._slots)
        return spent_ms


def measure(runner: ModelRunner, kinds: Sequence[Parameters]) -> tuple[list[float], list[float]]:
    """Milliseconds of greedy steps, and of those with parameters."""
    runner.reset()
    plain, other = (Group(runner, place * NUM_SEQS, parameters_of(k)) for place, k in enumerate(([_GREEDY], kinds)))
    times = [(plain.decode(), other.decode()) for _ in range(_NUM_WARM_UP + _NUM_STEPS)][_NUM_WARM_UP:]
    return [pair[0] for pair in times], [pair[1] for pair in times]


def as_row(title: str, plain: Sequence[float], other: Sequence[float]) -> str:
    """A row of the table: least and median of both, and what the parameters add."""
    added = 100 * (statistics.median(other) / statistics.median(plain) - 1)
    cells = [f"{min(times):.1f} / {statistics.median(times):.1f}" for times in (plain, other)]
    return f"| {title} | {' | '.join(cells)} | {added:+.1f} % |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), help="rows of the table")
    arguments = parser.parse_args()
    model = arguments.model
    runner = ModelRunner.load(
        resolve(model),
        dtype="auto",
        kv_cache_dtype="auto",
        quantization=None,
        block_size=_BLOCK_SIZE,
        kv_cache_memory_bytes=_CACHE_BYTES,
        gpu_memory_utilization=1.0,
        max_model_len=_NUM_BLOCKS * _BLOCK_SIZE,
        max_num_seqs=2 * NUM_SEQS,
        max_num_batched_tokens=512,
        enable_prefix_caching=False,
        device="cpu",
        model_name=model,
    )
    print(f"{model}, {runner.capabilities.kernels} kernels, {torch.get_num_threads()} threads, {NUM_SEQS} sequences")
    print("| ms, least / median | greedy | with parameters | added |\n|---|---|---|---|")
    for title in arguments.kinds:
        print(as_row(title, *measure(runner, KINDS[title])), flush=True)


if __name__ == "__main__":
    main()

"""`make bench-services`: what gateway, scheduler and Redis add to the time between two tokens of one request.

The same model by the same kernels, stepped in this process and served, in turns; medians over all tokens of a round.
"""

import os

# As in the worker. Read when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # isort: split

import argparse
import random
import statistics
import time
from itertools import pairwise

from gpu_worker.model_runner import ModelRunner
from loadtest.bench import measure_server
from loadtest.local_steps import greedy, steps
from loadtest.server import serving
from loadtest.settings import BenchSettings, Dataset, Reporting, Sampling, Target, Traffic
from shared.checkpoint import resolve

PROMPT_TOKENS, OUTPUT_TOKENS = 128, 256
_CACHE_BYTES = 1 << 28


def main() -> None:
    """Measure and print both and their difference, in ms."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    runner = _load(arguments.model)
    served, stepped = [], []
    with serving(arguments.model, "--max-model-len", "2048", "--no-enable-prefix-caching") as url:
        served_itl_ms(url, arguments.model, seed=0)
        for seed in range(1, arguments.rounds + 1):
            stepped.append(stepped_itl_ms(runner, seed=seed))
            served.append(served_itl_ms(url, arguments.model, seed=seed))
    for name, rounds in (("in process", stepped), ("served", served)):
        print(f"{name:>10}: median ITL {statistics.median(rounds):.2f} ms ({', '.join(f'{ms:.2f}' for ms in rounds)})")
    print(f"{'price':>10}: {statistics.median(served) - statistics.median(stepped):.2f} ms")


def stepped_itl_ms(runner: ModelRunner, *, seed: int) -> float:
    """Median time of the steps that give the tokens of one request after its first."""
    chance = random.Random(seed)
    prompt = [chance.randrange(100, 40_000) for _ in range(PROMPT_TOKENS)]
    at_s = [time.perf_counter() for _ in steps(runner, greedy([prompt], max_tokens=OUTPUT_TOKENS), runner.step)]
    return statistics.median(1e3 * (after - before) for before, after in pairwise(at_s))


def served_itl_ms(url: str, model: str, *, seed: int) -> float:
    """Median time between tokens of two requests, one after the other, at their client."""
    settings = BenchSettings(
        target=Target(base_url=url, model=model, tokenizer=model),
        traffic=Traffic(num_prompts=2, max_concurrency=1, seed=seed, disable_tqdm=True),
        dataset=Dataset(input_len=PROMPT_TOKENS, output_len=OUTPUT_TOKENS),
        sampling=Sampling(temperature=0.0),
        reporting=Reporting(),
    )
    _, measurement = measure_server(settings)
    return measurement.distributions["itl"].median


def _load(model: str) -> ModelRunner:
    return ModelRunner.load(
        resolve(model),
        dtype="auto",
        kv_cache_dtype="auto",
        quantization=None,
        block_size=16,
        kv_cache_memory_bytes=_CACHE_BYTES,
        gpu_memory_utilization=1.0,
        max_model_len=2048,
        max_num_seqs=1,
        max_num_batched_tokens=512,
        enable_prefix_caching=False,
        device="cpu",
        model_name=model,
    )


if __name__ == "__main__":
    main()

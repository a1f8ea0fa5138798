"""`make bench-floor`: the whole stack against transformers' static-batch `generate`, in one run on one machine.

The stack pays for the gateway, the scheduler and Redis on the same cores; transformers pays for nothing but the model.
Rounds alternate, and each figure is the median of its rounds.
"""

import argparse
import asyncio
import os
import random
import statistics
import time

import httpx
import torch

from loadtest.server import serving
from loadtest.transformers_peer import generate, load_in_transformers
from shared.checkpoint import resolve

PROMPT_TOKENS, OUTPUT_TOKENS = 128, 64


def main() -> int:
    """Measure and print a table; 1 if the stack is slower anywhere."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[8, 32])
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    model = load_in_transformers(resolve(arguments.model))
    torch.set_num_threads(os.cpu_count() or 1)
    print(
        f"{PROMPT_TOKENS} in / {OUTPUT_TOKENS} out, output tokens/s, median of {arguments.rounds} rounds (all rounds)"
    )
    is_slower = False
    with serving(arguments.model, "--max-model-len", "2048") as url:
        serve(url, arguments.model, prompts(2))
        for concurrency in arguments.concurrency:
            ours, theirs = [], []
            for _ in range(arguments.rounds):
                asked = prompts(concurrency)
                ours.append(rate(lambda asked=asked: serve(url, arguments.model, asked), concurrency))
                theirs.append(
                    rate(
                        lambda asked=asked: generate(model, asked, max_tokens=OUTPUT_TOKENS, ignore_eos=True),
                        concurrency,
                    )
                )
            ratio = statistics.median(ours) / statistics.median(theirs)
            is_slower |= ratio < 1
            print(f"  {concurrency:3} at once: pagestream {_show(ours)}   transformers {_show(theirs)}   x{ratio:.2f}")
    return int(is_slower)


def prompts(count: int) -> list[list[int]]:
    """Random ones, of `PROMPT_TOKENS`."""
    return [[random.randrange(100, 40_000) for _ in range(PROMPT_TOKENS)] for _ in range(count)]


def rate(work: object, count: int) -> float:
    """Output tokens per second of work that answers so many prompts."""
    assert callable(work)
    started = time.perf_counter()
    work()
    return count * OUTPUT_TOKENS / (time.perf_counter() - started)


def _show(rates: list[float]) -> str:
    return f"{statistics.median(rates):6.1f} ({', '.join(f'{rate:.0f}' for rate in rates)})"


def serve(url: str, model: str, asked: list[list[int]]) -> None:
    """Have a server answer prompts, all at once, each with `OUTPUT_TOKENS`."""

    async def one(client: httpx.AsyncClient, prompt: list[int]) -> None:
        body = {"model": model, "prompt": prompt, "max_tokens": OUTPUT_TOKENS, "temperature": 0, "ignore_eos": True}
        response = await client.post(f"{url}/v1/completions", json=body)
        response.raise_for_status()
        assert response.json()["usage"]["completion_tokens"] == OUTPUT_TOKENS

    async def everyone() -> None:
        async with httpx.AsyncClient(timeout=600, limits=httpx.Limits(max_connections=None)) as client:
            await asyncio.gather(*(one(client, prompt) for prompt in asked))

    asyncio.run(everyone())


if __name__ == "__main__":
    raise SystemExit(main())

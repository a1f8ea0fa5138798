"""`make bench-prefix`: time to the first token where a long prefix is new, and where the prefix cache has it."""

import argparse
import random
import statistics
import time

import httpx

from loadtest.server import serving

PREFIX_TOKENS, OWN_TOKENS = 1024, 16


def main() -> None:
    """Serve a model, ask it with some prefixes, each first alone and then again with other endings."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--hits", type=int, default=4, help="requests that share a prefix with the first")
    arguments = parser.parse_args()
    chance = random.Random(0)
    misses, hits = [], []
    with serving(arguments.model, "--max-model-len", "2048") as url, httpx.Client(base_url=url, timeout=120) as client:
        ttft_ms(client, arguments.model, _tokens(chance, OWN_TOKENS))
        for _ in range(arguments.rounds):
            prefix = _tokens(chance, PREFIX_TOKENS)
            first, *others = (
                ttft_ms(client, arguments.model, prefix + _tokens(chance, OWN_TOKENS))
                for _ in range(1 + arguments.hits)
            )
            misses.append(first)
            hits += others
    for name, values in ((f"{PREFIX_TOKENS} tokens new", misses), ("the same cached", hits)):
        shown = ", ".join(f"{value:.0f}" for value in values)
        print(f"{name:>16}: median TTFT {statistics.median(values):.1f} ms ({shown})")
    print(f"{'ratio':>16}: 1/{statistics.median(misses) / statistics.median(hits):.1f}")


def ttft_ms(client: httpx.Client, model: str, prompt: list[int]) -> float:
    """From the request to the first event of its answer."""
    body = {"model": model, "prompt": prompt, "max_tokens": 1, "temperature": 0, "stream": True}
    since_s = time.perf_counter()
    with client.stream("POST", "/v1/completions", json=body) as response:
        response.raise_for_status()
        next(response.iter_lines())
        return 1e3 * (time.perf_counter() - since_s)


def _tokens(chance: random.Random, count: int) -> list[int]:
    return [chance.randrange(100, 40_000) for _ in range(count)]


if __name__ == "__main__":
    main()

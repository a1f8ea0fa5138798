"""What `pagestream bench compare` is told, each field named like its flag."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Self

from loadtest.settings import BenchSettings, Dataset, PickedSettings, Reporting, Sampling, Target, Traffic

_LEAST_PROMPTS: Final = 6
_PROMPTS_AT_A_RATE: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """One way to send requests: so many at once, or so many a second (Poisson)."""

    max_concurrency: int | None
    request_rate: float
    num_prompts: int

    @classmethod
    def at_once(cls, count: int, num_prompts: int | None) -> Self:
        """A closed loop; without a number of prompts, two rounds of it and six at least."""
        return cls(
            max_concurrency=count,
            request_rate=math.inf,
            num_prompts=num_prompts or max(_LEAST_PROMPTS, 2 * count),
        )

    @classmethod
    def at_rate(cls, rate: float, num_prompts: int | None) -> Self:
        """An open loop."""
        return cls(max_concurrency=None, request_rate=rate, num_prompts=num_prompts or _PROMPTS_AT_A_RATE)

    @property
    def for_warmup(self) -> "Load":
        """As many requests as run at once, and no more."""
        return replace(self, num_prompts=min(self.num_prompts, self.max_concurrency or self.num_prompts))

    def __str__(self) -> str:
        return f"{self.request_rate:g} a second" if self.max_concurrency is None else f"{self.max_concurrency} at once"


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonSettings(PickedSettings):
    """Which servers, which loads, how often. Lengths are in tokens.

    Attributes:
        vllm: A virtual environment with the program `vllm`; None for no such peer.
        transformers: Whether static batches of transformers are a peer.
        url: Addresses of servers that run already, by the names they are shown under.
        serve_args: More flags of our `serve`.
        vllm_args: More flags of `vllm serve`.
    """

    model: str
    vllm: Path | None = None
    transformers: bool = False
    url: Mapping[str, str] = field(default_factory=dict)
    serve_args: tuple[str, ...] = ()
    vllm_args: tuple[str, ...] = ()
    max_model_len: int = 2048
    max_num_seqs: int = 64
    max_concurrency: tuple[int, ...] = (1, 8, 32)
    request_rate: tuple[float, ...] = ()
    num_prompts: int | None = None
    input_len: int = 128
    output_len: int = 64
    repeats: int = 3
    seed: int = 0
    disable_tqdm: bool = False
    save_result: bool = False
    result_dir: Path | None = None
    result_filename: str | None = None

    @property
    def loads(self) -> list[Load]:
        """What each server is loaded with, one after another; rates take the place of concurrencies."""
        if self.request_rate:
            return [Load.at_rate(rate, self.num_prompts) for rate in self.request_rate]
        return [Load.at_once(count, self.num_prompts) for count in self.max_concurrency]

    def of_run(self, load: Load, run: int, *, url: str, model: str | None) -> BenchSettings:
        """One measurement of one server. Runs differ in their prompts, servers do not.

        Args:
            load: One of `loads`.
            run: Counts measurements; 0 and up.
            url: The server's address.
            model: What it calls the model; None to ask it.
        """
        return BenchSettings(
            target=Target(base_url=url, model=model, tokenizer=self.model),
            traffic=Traffic(
                num_prompts=load.num_prompts,
                request_rate=load.request_rate,
                max_concurrency=load.max_concurrency,
                seed=self.seed + run,
                disable_tqdm=self.disable_tqdm,
            ),
            dataset=Dataset(input_len=self.input_len, output_len=self.output_len),
            sampling=Sampling(temperature=0.0),
            reporting=Reporting(),
        )

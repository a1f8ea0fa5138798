"""What `pagestream bench serve` is told, each field named like its flag."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final, Literal, Self

Backend = Literal["openai", "openai-chat", "vllm"]
DatasetName = Literal["random", "sharegpt", "prefix", "prefix_repetition", "multiturn"]

METRICS: Final = ("ttft", "tpot", "itl", "e2el", "client_queue_time")
"""What has a distribution."""

OBJECTIVES: Final = ("ttft", "tpot", "e2el")
"""What an SLO may bound."""


class PickedSettings:
    """Settings that a command line gives, field by field."""

    @classmethod
    def pick(cls, parameters: Mapping[str, Any]) -> Self:
        """Take one's own fields out of a command's parameters."""
        names = [field.name for field in fields(cls)]  # type: ignore[arg-type]  # subclasses are dataclasses
        return cls(**{name: parameters[name] for name in names})


@dataclass(frozen=True, slots=True, kw_only=True)
class Target(PickedSettings):
    """Which server, and which model of it."""

    backend: Backend = "openai"
    base_url: str | None = None
    host: str = "127.0.0.1"
    port: int = 8000
    endpoint: str | None = None
    header: Mapping[str, str] = field(default_factory=dict)
    insecure: bool = False
    model: str | None = None
    served_model_name: str | None = None
    tokenizer: str | None = None
    ready_check_timeout_sec: int = 0

    @property
    def is_chat(self) -> bool:
        """Whether conversations are sent as messages."""
        return self.backend == "openai-chat"

    @property
    def root_url(self) -> str:
        """The server's address, without the path of an endpoint."""
        return (self.base_url or f"http://{self.host}:{self.port}").rstrip("/")

    @property
    def path(self) -> str:
        """Of the endpoint that is measured."""
        return self.endpoint or ("/v1/chat/completions" if self.is_chat else "/v1/completions")


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic(PickedSettings):
    """How many requests, and when."""

    num_prompts: int = 1000
    request_rate: float = math.inf
    burstiness: float = 1.0
    max_concurrency: int | None = None
    num_warmups: int = 0
    seed: int = 0
    disable_tqdm: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset(PickedSettings):
    """What the requests ask. Lengths are in tokens."""

    dataset_name: DatasetName = "random"
    dataset_path: Path | None = None
    input_len: int | None = None
    output_len: int | None = None
    random_input_len: int = 1024
    random_output_len: int = 128
    random_range_ratio: float = 0.0
    random_prefix_len: int = 0
    sharegpt_output_len: int | None = None
    prefix_repetition_prefix_len: int = 256
    prefix_repetition_suffix_len: int = 256
    prefix_repetition_num_prefixes: int = 10
    prefix_repetition_output_len: int = 128
    multiturn_num_turns: int = 5
    multiturn_prefix_len: int = 128
    multiturn_input_len: int = 64
    multiturn_output_len: int = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling(PickedSettings):
    """How answers are to be made."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    ignore_eos: bool = False
    extra_body: Mapping[str, object] = field(default_factory=dict)

    def body(self, *, ignore_eos: bool) -> dict[str, object]:
        """The fields of a request's body; a field of `extra_body` wins."""
        chosen = {"temperature": self.temperature, "top_p": self.top_p, "top_k": self.top_k}
        body: dict[str, object] = {name: value for name, value in chosen.items() if value is not None}
        return body | ({"ignore_eos": True} if ignore_eos else {}) | dict(self.extra_body)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reporting(PickedSettings):
    """What is printed and kept. The SLO of `goodput` is in milliseconds."""

    percentile_metrics: tuple[str, ...] = ("ttft", "tpot", "itl")
    metric_percentiles: tuple[float, ...] = (99.0,)
    goodput: Mapping[str, float] = field(default_factory=dict)
    label: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    save_result: bool = False
    save_detailed: bool = False
    append_result: bool = False
    result_dir: Path | None = None
    result_filename: str | None = None
    plot: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchSettings:
    """All of it."""

    target: Target
    traffic: Traffic
    dataset: Dataset
    sampling: Sampling
    reporting: Reporting

    @classmethod
    def pick(cls, parameters: Mapping[str, Any]) -> Self:
        """Take everything out of a command's parameters."""
        return cls(
            target=Target.pick(parameters),
            traffic=Traffic.pick(parameters),
            dataset=Dataset.pick(parameters),
            sampling=Sampling.pick(parameters),
            reporting=Reporting.pick(parameters),
        )

    @property
    def ignore_eos(self) -> bool:
        """Whether answers run to their full length: always for random prompts, as `vllm bench serve` has it."""
        return self.sampling.ignore_eos or self.dataset.dataset_name == "random"

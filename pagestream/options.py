"""The flags of the command line, each written down once.

A flag has the name that vLLM gives it, and may also be set by the variable PAGESTREAM_<NAME>. The variables are how
Compose configures services, and how `pagestream serve` hands its flags to the services it starts.
"""

import re
from collections.abc import Iterable, Mapping
from fractions import Fraction
from typing import Annotated, Any, Literal

import typer

_COUNT = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,18})?)([kKmMgGtT]?)")
_FACTORS = {"": 1, "k": 10**3, "K": 2**10, "m": 10**6, "M": 2**20, "g": 10**9, "G": 2**30, "t": 10**12, "T": 2**40}


def parse_count(text: str | int) -> int:
    """Read a positive whole number as vLLM does: "1k" is 1000, "1K" is 1024, "25.6k" is 25600.

    Args:
        text: What was typed, or a default.

    Raises:
        BadParameter: it is none.
    """
    match = _COUNT.fullmatch(str(text))
    count = Fraction(match[1]) * _FACTORS[match[2]] if match else Fraction(0)
    if count < 1 or count.denominator != 1:
        raise typer.BadParameter(f"{text!r} is no positive whole number such as 512, 32k (thousands), 1K or 2G (1024s)")
    return int(count)


def parse_word(text: str) -> str:
    """Take a name or a key as it is, if a list of them can be written into one variable.

    Raises:
        BadParameter: there is white space in it, or nothing.
    """
    if text.split() != [text]:
        raise typer.BadParameter("it must not be empty or hold spaces")
    return text


def variable(parameter: str) -> str:
    """The environment variable that sets a command's parameter."""
    return f"PAGESTREAM_{parameter.upper()}"


def as_environment(parameters: Mapping[str, object]) -> dict[str, str]:
    """The variables that set these parameters in another process; those that are None are left to their defaults."""
    return {variable(name): _as_text(value) for name, value in parameters.items() if value is not None}


def _as_text(value: object) -> str:
    if isinstance(value, Iterable) and not isinstance(value, str):
        return " ".join(map(str, value))
    return str(value)


def _flag(name: str, panel: str, text: str, **limits: Any) -> Any:  # noqa: ANN401 - as typer's own
    declarations = [f"--{name}/--no-{name}"] if limits.pop("switch", False) else [f"--{name}"]
    return typer.Option(
        *declarations,
        envvar=variable(name.replace("-", "_")),
        show_envvar=False,
        help=text,
        rich_help_panel=panel,
        **limits,
    )


def _count(name: str, panel: str, text: str) -> Any:  # noqa: ANN401 - as typer's own
    return _flag(name, panel, text, parser=parse_count, metavar="COUNT")


_MODEL, _API, _ENGINE, _BUS = "Model", "API", "Engine", "Deployment"

Model = Annotated[
    str,
    typer.Argument(
        envvar=variable("model"),
        show_envvar=False,
        help='"demo", a *.gguf file, a Hugging Face directory, or a hub id.',
    ),
]
ServedModelName = Annotated[
    list[str] | None,
    _flag(
        "served-model-name", _MODEL, "Name that clients ask for; repeat it for more. Default: MODEL.", parser=parse_word
    ),
]
Dtype = Annotated[str, _flag("dtype", _MODEL, "Type of weights and activations: auto, float32, bfloat16, float16.")]
Quantization = Annotated[
    str | None,
    _flag(
        "quantization",
        _MODEL,
        "Round to fewer bits, on a CPU: int8 (weights and activations), int8-weight-only. Or what the checkpoint is: "
        "awq, gptq, fp8, compressed-tensors; it is found out without.",
    ),
]
MaxModelLen = Annotated[
    int | None, _count("max-model-len", _MODEL, "Tokens of a prompt and its output together. Default: the model's.")
]
Seed = Annotated[int, _flag("seed", _MODEL, "For what is random where a request has no seed.", min=0)]

Host = Annotated[str, _flag("host", _API, "Interface to listen on; 0.0.0.0 for all.")]
Port = Annotated[int, _flag("port", _API, "TCP port.", min=0, max=65535)]
ApiKey = Annotated[
    list[str] | None,
    _flag("api-key", _API, "Key that clients must send; repeat it for more. Default: none wanted.", parser=parse_word),
]
ApiKeyFile = Annotated[
    str | None, _flag("api-key-file", _API, "TOML with the hashes and limits of API keys (pagestream api-key).")
]
SslCertfile = Annotated[str | None, _flag("ssl-certfile", _API, "Certificate for HTTPS, PEM.")]
SslKeyfile = Annotated[str | None, _flag("ssl-keyfile", _API, "Its key, if that is in another file.")]
MaxNumQueuedReqs = Annotated[
    int, _count("max-num-queued-reqs", _API, "Requests in the pool above which a new one is refused with 429.")
]

MaxLogprobs = Annotated[int, _flag("max-logprobs", _API, "Likeliest tokens told beside each token, at most.", min=0)]
TrustRequestChatTemplate = Annotated[
    bool,
    _flag(
        "trust-request-chat-template", _API, "Let requests bring a chat template: a program, in a sandbox.", switch=True
    ),
]
EnableAutoToolChoice = Annotated[
    bool, _flag("enable-auto-tool-choice", _API, "Let the model call tools without being made to.", switch=True)
]
ToolCallParser = Annotated[
    str | None,
    _flag(
        "tool-call-parser",
        _API,
        "How it writes calls: hermes, llama3_json, mistral, none. Default: by chat template.",
    ),
]
ReasoningParser = Annotated[
    str | None,
    _flag(
        "reasoning-parser",
        _API,
        "How it writes reasoning: deepseek_r1, qwen3, ..., none. Default: by chat template.",
    ),
]

PoolingKind = Annotated[
    Literal["last", "mean"],
    _flag("pooling", _API, "What an embedding is: the last hidden state of the last token, or the mean of all."),
]
MaxFileBytes = Annotated[int, _count("max-file-bytes", _API, "Size of an uploaded file, such as 100M.")]
MaxResponseStoreBytes = Annotated[
    int, _count("max-response-store-bytes", _API, "Redis memory for kept responses; the oldest are dropped.")
]
MaxFileStoreBytes = Annotated[
    int, _count("max-file-store-bytes", _API, "Redis memory for files, and again for batches; more are refused.")
]
MaxStreamStoreBytes = Annotated[
    int, _count("max-stream-store-bytes", _API, "Redis memory for what is kept to resume streams; the oldest give way.")
]

ShutdownTimeout = Annotated[
    float,
    _flag("shutdown-timeout", _API, "Seconds for which running streams may go on after SIGTERM; 0 ends them.", min=0),
]

MaxNumSeqs = Annotated[int, _count("max-num-seqs", _ENGINE, "Sequences that one worker runs at once.")]
MaxNumBatchedTokens = Annotated[
    int, _count("max-num-batched-tokens", _ENGINE, "Tokens that one worker computes in one step.")
]
BlockSize = Annotated[int, _count("block-size", _ENGINE, "Tokens per block of the KV cache.")]
GpuMemoryUtilization = Annotated[
    float, _flag("gpu-memory-utilization", _ENGINE, "Share of the GPU's memory to use.", min=0.01, max=1.0)
]
KvCacheMemoryBytes = Annotated[
    int | None, _count("kv-cache-memory-bytes", _ENGINE, "Size of the KV cache, such as 2G. Default: by what is free.")
]
KvCacheDtype = Annotated[
    str,
    _flag(
        "kv-cache-dtype",
        _ENGINE,
        "Keys and values: auto (as --dtype says), fp32, fp16, bf16, int8; on a GPU fp8.",
    ),
]
EnablePrefixCaching = Annotated[
    bool, _flag("enable-prefix-caching", _ENGINE, "Compute a prefix that requests share only once.", switch=True)
]
EnforceEager = Annotated[
    bool,
    _flag("enforce-eager", _ENGINE, "Capture no steps (CUDA graphs): less memory, a faster start.", switch=True),
]
NumThreads = Annotated[
    int | None, _count("num-threads", _ENGINE, "Threads that a worker computes with. Default: its share of all.")
]
Device = Annotated[str, _flag("device", _ENGINE, "Where to compute: auto, cpu, cuda.")]
RunnerKind = Annotated[
    Literal["model", "fake", "timed"],
    _flag("runner", _ENGINE, "A real model, a fake one, or a fake one that takes as long as a GPU would."),
]

TimedDevice = Annotated[
    Literal["h100", "a100", "mi300x"],
    _flag("timed-device", _ENGINE, "The GPU whose time --runner timed takes, with Llama 3.1 8B (docs/roofline.md)."),
]

Workers = Annotated[int, _count("workers", _BUS, "Worker processes.")]
RedisUrl = Annotated[
    str,
    _flag(
        "redis-url",
        _BUS,
        "The Redis that is the bus; also redis+sentinel://host:port/service, redis+cluster://host:port.",
    ),
]
OwnRedisUrl = Annotated[
    str | None, _flag("redis-url", _BUS, "A Redis that runs already. Default: one of the stack's own.")
]
Pool = Annotated[str, _flag("pool", _BUS, "Name of the pool: one model with one configuration.")]
WorkerOn = Annotated[
    str | None,
    typer.Option(
        "--worker-on",
        metavar="HOST",
        help="Succeed only if a worker on this host has a heartbeat; '.' is the host this runs on.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]

LogLevel = Annotated[
    Literal["debug", "info", "warning", "error"],
    _flag("log-level", _BUS, "Least level that is logged.", case_sensitive=False),
]

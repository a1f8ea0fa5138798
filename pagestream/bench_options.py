"""The flags of `pagestream bench`, each written down once; those of `serve` have the names of `vllm bench serve`."""

import json
import math
import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from loadtest.settings import METRICS, OBJECTIVES
from loadtest.settings import Backend as BackendName
from loadtest.settings import DatasetName as DatasetNames
from pagestream.options import parse_count

_SERVER, _LOAD, _DATA, _SAMPLING, _REPORT = "Server", "Load", "Dataset", "Sampling", "Report"


def parse_rate(text: str | float) -> float:
    """Read a number above 0, or "inf".

    Raises:
        BadParameter: it is none.
    """
    try:
        rate = float(text)
    except ValueError:
        rate = math.nan
    if not rate > 0:
        raise typer.BadParameter(f"{text!r} is no number above 0, nor inf")
    return rate


def parse_metrics(text: str) -> tuple[str, ...]:
    """Read names of metrics with commas between them.

    Raises:
        BadParameter: one is unknown.
    """
    names = tuple(text.split(","))
    if unknown := set(names) - set(METRICS):
        raise typer.BadParameter(f"{', '.join(sorted(unknown))!r} is none of {', '.join(METRICS)}")
    return names


def parse_percentiles(text: str) -> tuple[float, ...]:
    """Read percentiles with commas between them, such as "50,90,99.9".

    Raises:
        BadParameter: one is not from 0 to 100.
    """
    try:
        percentiles = tuple(map(float, text.split(",")))
    except ValueError:
        percentiles = (math.nan,)
    if not all(0 <= percentile <= 100 for percentile in percentiles):  # noqa: PLR2004
        raise typer.BadParameter(f"{text!r} is no list of numbers from 0 to 100, such as 50,90,99")
    return percentiles


def parse_pairs(items: list[str] | None) -> dict[str, str]:
    """Read KEY=VALUE items.

    Raises:
        BadParameter: one is none.
    """
    pairs = {}
    for item in items or ():
        key, separator, value = item.partition("=")
        if not separator or not key.strip() or not value.isprintable():
            raise typer.BadParameter(f"{item!r} is not like KEY=VALUE")
        pairs[key.strip()] = value.strip()
    return pairs


def parse_objectives(items: list[str] | None) -> dict[str, float]:
    """Read METRIC:MILLISECONDS items.

    Raises:
        BadParameter: one is none.
    """
    bounds = {}
    for item in items or ():
        name, _, bound = item.partition(":")
        if name not in OBJECTIVES or not bound.replace(".", "", 1).isdecimal():
            raise typer.BadParameter(f"{item!r} is not like ttft:500, with {', '.join(OBJECTIVES)} and milliseconds")
        bounds[name] = float(bound)
    return bounds


def parse_object(text: str | None) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        BadParameter: it is none.
    """
    try:
        value = json.loads(text or "{}")
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise typer.BadParameter(f"""{text!r} is no JSON object such as '{{"top_p": 0.9}}'""")
    return value


def parse_addresses(items: list[str] | None) -> dict[str, str]:
    """Read NAME=URL items.

    Raises:
        BadParameter: one is none.
    """
    addresses = parse_pairs(items)
    for name, url in addresses.items():
        if not url.startswith(("http://", "https://")):
            raise typer.BadParameter(f"{name + '=' + url!r} is not like NAME=http://HOST:PORT")
    return addresses


def parse_arguments(text: str | None) -> tuple[str, ...]:
    """Split flags for another command as a shell does.

    Raises:
        BadParameter: a quotation does not end.
    """
    try:
        return tuple(shlex.split(text or ""))
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} cannot be split into flags: {error}") from error


def _flag(name: str, panel: str, text: str, **limits: Any) -> Any:  # noqa: ANN401 - as typer's own
    return typer.Option(f"--{name}", help=text, rich_help_panel=panel, **limits)


def _count(name: str, panel: str, text: str) -> Any:  # noqa: ANN401 - as typer's own
    return _flag(name, panel, text, parser=parse_count, metavar="COUNT")


Backend = Annotated[BackendName, _flag("backend", _SERVER, "The API: completions, or openai-chat for chat.")]
BaseUrl = Annotated[str | None, _flag("base-url", _SERVER, "The server's address, instead of --host and --port.")]
Host = Annotated[str, _flag("host", _SERVER, "The server's name.")]
Port = Annotated[int, _flag("port", _SERVER, "The server's TCP port.", min=1, max=65535)]
Endpoint = Annotated[str | None, _flag("endpoint", _SERVER, "Path of the API. Default: the backend's under /v1.")]
Header = Annotated[
    list[str] | None,
    _flag(
        "header",
        _SERVER,
        "Sent with each request. $OPENAI_API_KEY is sent by itself.",
        metavar="KEY=VALUE...",
        callback=parse_pairs,
    ),
]
Insecure = Annotated[bool, _flag("insecure", _SERVER, "Do not check the server's certificate.")]
Model = Annotated[str | None, _flag("model", _SERVER, "Model to ask for. Default: the first that the server names.")]
ServedModelName = Annotated[
    str | None, _flag("served-model-name", _SERVER, "Name of the model in requests. Default: that of --model.")
]
TokenizerName = Annotated[
    str | None,
    _flag("tokenizer", _SERVER, "Path, hub id, or 'demo'. Prompts are measured with it. Default: that of --model."),
]
ReadyCheckTimeoutSec = Annotated[
    int, _flag("ready-check-timeout-sec", _SERVER, "How long to wait for a first answer; 0 for no check.", min=0)
]

NumPrompts = Annotated[int, _count("num-prompts", _LOAD, "Requests to send.")]
RequestRate = Annotated[
    float, _flag("request-rate", _LOAD, "Requests per second; inf for all at once.", parser=parse_rate, metavar="RATE")
]
Burstiness = Annotated[
    float,
    _flag(
        "burstiness",
        _LOAD,
        "Shape of the gamma distribution of arrivals: 1 is Poisson, less is burstier.",
        parser=parse_rate,
        metavar="SHAPE",
    ),
]
MaxConcurrency = Annotated[int | None, _count("max-concurrency", _LOAD, "Requests under way at once. Default: any.")]
NumWarmups = Annotated[int, _flag("num-warmups", _LOAD, "Requests to send first, and not to count.", min=0)]
Seed = Annotated[int, _flag("seed", _LOAD, "The same one gives the same prompts at the same times.")]
DisableTqdm = Annotated[bool, _flag("disable-tqdm", _LOAD, "Show no progress bar.")]

DatasetName = Annotated[DatasetNames, _flag("dataset-name", _DATA, "What is asked.")]
DatasetPath = Annotated[Path | None, _flag("dataset-path", _DATA, "ShareGPT's JSON file.")]
InputLen = Annotated[int | None, _count("input-len", _DATA, "Tokens of a prompt, for any dataset of random text.")]
OutputLen = Annotated[int | None, _count("output-len", _DATA, "Tokens of an answer, for any dataset.")]
RandomInputLen = Annotated[int, _count("random-input-len", _DATA, "Tokens of a prompt.")]
RandomOutputLen = Annotated[int, _count("random-output-len", _DATA, "Tokens of an answer.")]
RandomRangeRatio = Annotated[
    float, _flag("random-range-ratio", _DATA, "How far both vary to either side, as a share.", min=0.0, max=0.999)
]
RandomPrefixLen = Annotated[
    int, _flag("random-prefix-len", _DATA, "Tokens that all prompts begin with, beyond their own.", min=0)
]
SharegptOutputLen = Annotated[
    int | None, _count("sharegpt-output-len", _DATA, "Tokens of an answer. Default: those of the file's answer.")
]
PrefixRepetitionPrefixLen = Annotated[int, _count("prefix-repetition-prefix-len", _DATA, "Tokens of a shared prefix.")]
PrefixRepetitionSuffixLen = Annotated[int, _count("prefix-repetition-suffix-len", _DATA, "Tokens of what follows it.")]
PrefixRepetitionNumPrefixes = Annotated[int, _count("prefix-repetition-num-prefixes", _DATA, "Different prefixes.")]
PrefixRepetitionOutputLen = Annotated[int, _count("prefix-repetition-output-len", _DATA, "Tokens of an answer.")]
MultiturnNumTurns = Annotated[int, _count("multiturn-num-turns", _DATA, "Turns of a conversation: a request each.")]
MultiturnPrefixLen = Annotated[
    int, _flag("multiturn-prefix-len", _DATA, "Tokens that all conversations begin with.", min=0)
]
MultiturnInputLen = Annotated[int, _count("multiturn-input-len", _DATA, "Tokens that a user says in a turn.")]
MultiturnOutputLen = Annotated[int, _count("multiturn-output-len", _DATA, "Tokens of an answer.")]

Temperature = Annotated[float | None, _flag("temperature", _SAMPLING, "0 for greedy. Default: the server's.", min=0.0)]
TopP = Annotated[float | None, _flag("top-p", _SAMPLING, "Default: the server's.", min=0.0, max=1.0)]
TopK = Annotated[int | None, _flag("top-k", _SAMPLING, "Default: the server's.")]
IgnoreEos = Annotated[
    bool, _flag("ignore-eos", _SAMPLING, "Answers run to their full length. Always so for random prompts.")
]
ExtraBody = Annotated[
    str | None,
    _flag("extra-body", _SAMPLING, "More fields of each request, as JSON.", metavar="JSON", callback=parse_object),
]

PercentileMetrics = Annotated[
    str,
    _flag(
        "percentile-metrics",
        _REPORT,
        f"What to print of {','.join(METRICS)}.",
        metavar="METRICS",
        callback=parse_metrics,
    ),
]
MetricPercentiles = Annotated[
    str, _flag("metric-percentiles", _REPORT, "Such as 50,90,99.", metavar="PERCENTILES", callback=parse_percentiles)
]
Goodput = Annotated[
    list[str] | None,
    _flag(
        "goodput",
        _REPORT,
        "Count what is as fast as this, such as ttft:500 tpot:50.",
        metavar="METRIC:MS...",
        callback=parse_objectives,
    ),
]
Label = Annotated[str | None, _flag("label", _REPORT, "Name of the run in its result. Default: the backend.")]
Metadata = Annotated[
    list[str] | None, _flag("metadata", _REPORT, "More to keep with it.", metavar="KEY=VALUE...", callback=parse_pairs)
]
SaveResult = Annotated[bool, _flag("save-result", _REPORT, "Write the result to a JSON file.")]
SaveDetailed = Annotated[bool, _flag("save-detailed", _REPORT, "With the figures of each request.")]
AppendResult = Annotated[bool, _flag("append-result", _REPORT, "Write it as one more line of the file.")]
ResultDir = Annotated[Path | None, _flag("result-dir", _REPORT, "Where to write it. Default: here.")]
ResultFilename = Annotated[str | None, _flag("result-filename", _REPORT, "Default: named by what was run.")]
Plot = Annotated[
    Path | None,
    _flag(
        "plot",
        _REPORT,
        "Draw TTFT, ITL and tokens/s over time into this file (.png, .svg, .pdf). Needs pagestream[bench].",
        metavar="FILE",
    ),
]

_SERVERS = "Servers"

ServedModel = Annotated[str, typer.Argument(help='"demo", a *.gguf file, a Hugging Face directory, or a hub id.')]
VLLM = Annotated[
    Path | None, _flag("vllm", _SERVERS, "Compare with vLLM, from this virtual environment.", metavar="VENV")
]
Transformers = Annotated[
    bool, _flag("transformers", _SERVERS, "Compare with static batches of transformers' generate.")
]
Url = Annotated[
    list[str] | None,
    _flag(
        "url",
        _SERVERS,
        "Compare with servers that run already.",
        metavar="NAME=URL...",
        callback=parse_addresses,
    ),
]
ServeArgs = Annotated[
    str | None,
    _flag(
        "serve-args",
        _SERVERS,
        """More flags of `pagestream serve`, such as "--kv-cache-dtype fp16".""",
        metavar="FLAGS",
        callback=parse_arguments,
    ),
]
VLLMArgs = Annotated[
    str | None,
    _flag("vllm-args", _SERVERS, "More flags of `vllm serve`.", metavar="FLAGS", callback=parse_arguments),
]
MaxModelLen = Annotated[int, _count("max-model-len", _SERVERS, "Tokens of a prompt and its output, for all servers.")]
MaxNumSeqs = Annotated[int, _count("max-num-seqs", _SERVERS, "Sequences that each server runs at once.")]
MaxConcurrencies = Annotated[
    list[int] | None,
    _flag(
        "max-concurrency",
        _LOAD,
        "Requests under way at once, one load for each. Default: 1 8 32.",
        parser=parse_count,
        metavar="COUNT...",
    ),
]
RequestRates = Annotated[
    list[float] | None,
    _flag(
        "request-rate",
        _LOAD,
        "Requests per second (Poisson), one load for each, instead of --max-concurrency.",
        parser=parse_rate,
        metavar="RATE...",
    ),
]
PromptsOfALoad = Annotated[
    int | None,
    _count("num-prompts", _LOAD, "Requests of a run. Default: two for each at once, 6 at least; 64 at a rate."),
]
Repeats = Annotated[int, _count("repeats", _LOAD, "Runs of each load; medians are printed.")]
PromptLen = Annotated[int, _count("input-len", _DATA, "Tokens of a prompt.")]
AnswerLen = Annotated[int, _count("output-len", _DATA, "Tokens of an answer.")]

_KERNELS = "Kernels"

MeasuredModel = Annotated[
    str, typer.Argument(help='Whose shapes and formats: "demo", a *.gguf file, a Hugging Face directory, or a hub id.')
]
KvCacheDtype = Annotated[str, _flag("kv-cache-dtype", _KERNELS, "Of keys and values: auto, fp32, bf16, fp16, int8.")]
Quantization = Annotated[str | None, _flag("quantization", _KERNELS, "Of the matrices: int8, int8-weight-only.")]
NumThreads = Annotated[int | None, _count("num-threads", _KERNELS, "Default: one for each core.")]
RepeatsOfAnOp = Annotated[int, _count("repeats", _KERNELS, "Timings of each op; the least and the median are printed.")]

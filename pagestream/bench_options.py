"""The flags of `pagestream bench serve`, each written down once and named as `vllm bench serve` names it."""

import json
import math
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

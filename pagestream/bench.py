"""The command `pagestream bench`: reads flags, and has `loadtest` measure."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import typer
from typer.core import TyperCommand

from loadtest.comparison_settings import ComparisonSettings
from loadtest.kernel_settings import KernelSettings
from loadtest.settings import BenchSettings, Dataset, Reporting, Sampling, Target, Traffic
from pagestream import bench_options as flags
from shared.demo_model import DEMO

_LISTS: Final = frozenset({"--goodput", "--header", "--metadata"})
_LISTS_OF_COMPARE: Final = frozenset({"--url", "--max-concurrency", "--request-rate"})
_COMPARISON = ComparisonSettings(model=DEMO)
_KERNELS = KernelSettings(model=DEMO)
_TARGET, _TRAFFIC, _DATASET, _SAMPLING, _REPORTING = Target(), Traffic(), Dataset(), Sampling(), Reporting()

app = typer.Typer(help="Measure a server, or the kernels.", no_args_is_help=True)


def repeat_list_flags(arguments: list[str], lists: frozenset[str] = _LISTS) -> list[str]:
    """Give each of `--goodput ttft:500 tpot:50`, as vLLM takes them, a flag of its own, as typer wants it."""
    repeated: list[str] = []
    flag = None
    for argument in arguments:
        if argument.startswith("-"):
            flag = argument if argument in lists else None
        elif flag is not None and repeated[-1] != flag:
            repeated.append(flag)
        repeated.append(argument)
    return repeated


class _BenchCommand(TyperCommand):
    lists = _LISTS

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401 - a private class of typer's
        return super().parse_args(ctx, repeat_list_flags(args, self.lists))


class _CompareCommand(_BenchCommand):
    lists = _LISTS_OF_COMPARE


@app.callback()
def _bench() -> None:
    """Measure a server, or the kernels."""


@app.command(cls=_BenchCommand)
def serve(  # noqa: PLR0913 - one parameter per flag
    context: typer.Context,
    *,
    backend: flags.Backend = _TARGET.backend,
    base_url: flags.BaseUrl = _TARGET.base_url,
    host: flags.Host = _TARGET.host,
    port: flags.Port = _TARGET.port,
    endpoint: flags.Endpoint = _TARGET.endpoint,
    header: flags.Header = None,
    insecure: flags.Insecure = _TARGET.insecure,
    model: flags.Model = _TARGET.model,
    served_model_name: flags.ServedModelName = _TARGET.served_model_name,
    tokenizer: flags.TokenizerName = _TARGET.tokenizer,
    ready_check_timeout_sec: flags.ReadyCheckTimeoutSec = _TARGET.ready_check_timeout_sec,
    num_prompts: flags.NumPrompts = _TRAFFIC.num_prompts,
    request_rate: flags.RequestRate = _TRAFFIC.request_rate,
    burstiness: flags.Burstiness = _TRAFFIC.burstiness,
    max_concurrency: flags.MaxConcurrency = _TRAFFIC.max_concurrency,
    num_warmups: flags.NumWarmups = _TRAFFIC.num_warmups,
    seed: flags.Seed = _TRAFFIC.seed,
    disable_tqdm: flags.DisableTqdm = _TRAFFIC.disable_tqdm,
    dataset_name: flags.DatasetName = _DATASET.dataset_name,
    dataset_path: flags.DatasetPath = _DATASET.dataset_path,
    input_len: flags.InputLen = _DATASET.input_len,
    output_len: flags.OutputLen = _DATASET.output_len,
    random_input_len: flags.RandomInputLen = _DATASET.random_input_len,
    random_output_len: flags.RandomOutputLen = _DATASET.random_output_len,
    random_range_ratio: flags.RandomRangeRatio = _DATASET.random_range_ratio,
    random_prefix_len: flags.RandomPrefixLen = _DATASET.random_prefix_len,
    sharegpt_output_len: flags.SharegptOutputLen = _DATASET.sharegpt_output_len,
    prefix_repetition_prefix_len: flags.PrefixRepetitionPrefixLen = _DATASET.prefix_repetition_prefix_len,
    prefix_repetition_suffix_len: flags.PrefixRepetitionSuffixLen = _DATASET.prefix_repetition_suffix_len,
    prefix_repetition_num_prefixes: flags.PrefixRepetitionNumPrefixes = _DATASET.prefix_repetition_num_prefixes,
    prefix_repetition_output_len: flags.PrefixRepetitionOutputLen = _DATASET.prefix_repetition_output_len,
    multiturn_num_turns: flags.MultiturnNumTurns = _DATASET.multiturn_num_turns,
    multiturn_prefix_len: flags.MultiturnPrefixLen = _DATASET.multiturn_prefix_len,
    multiturn_input_len: flags.MultiturnInputLen = _DATASET.multiturn_input_len,
    multiturn_output_len: flags.MultiturnOutputLen = _DATASET.multiturn_output_len,
    temperature: flags.Temperature = _SAMPLING.temperature,
    top_p: flags.TopP = _SAMPLING.top_p,
    top_k: flags.TopK = _SAMPLING.top_k,
    ignore_eos: flags.IgnoreEos = _SAMPLING.ignore_eos,
    extra_body: flags.ExtraBody = None,
    percentile_metrics: flags.PercentileMetrics = "ttft,tpot,itl",
    metric_percentiles: flags.MetricPercentiles = "99",
    goodput: flags.Goodput = None,
    label: flags.Label = _REPORTING.label,
    metadata: flags.Metadata = None,
    save_result: flags.SaveResult = _REPORTING.save_result,
    save_detailed: flags.SaveDetailed = _REPORTING.save_detailed,
    append_result: flags.AppendResult = _REPORTING.append_result,
    result_dir: flags.ResultDir = _REPORTING.result_dir,
    result_filename: flags.ResultFilename = _REPORTING.result_filename,
    plot: flags.Plot = _REPORTING.plot,
) -> int:
    """Measure any server with OpenAI's API, by the flags, words and definitions of `vllm bench serve`."""
    # The client and what it counts with: 0.5 s that the other commands do not need.
    from loadtest.bench import run

    return run(BenchSettings.pick(context.params))


@app.command(cls=_CompareCommand)
def compare(  # noqa: PLR0913 - one parameter per flag
    context: typer.Context,
    model: flags.ServedModel = _COMPARISON.model,
    *,
    vllm: flags.VLLM = _COMPARISON.vllm,
    transformers: flags.Transformers = _COMPARISON.transformers,
    url: flags.Url = None,
    serve_args: flags.ServeArgs = None,
    vllm_args: flags.VLLMArgs = None,
    max_model_len: flags.MaxModelLen = _COMPARISON.max_model_len,
    max_num_seqs: flags.MaxNumSeqs = _COMPARISON.max_num_seqs,
    max_concurrency: flags.MaxConcurrencies = None,
    request_rate: flags.RequestRates = None,
    num_prompts: flags.PromptsOfALoad = _COMPARISON.num_prompts,
    repeats: flags.Repeats = _COMPARISON.repeats,
    seed: flags.Seed = _COMPARISON.seed,
    disable_tqdm: flags.DisableTqdm = _COMPARISON.disable_tqdm,
    input_len: flags.PromptLen = _COMPARISON.input_len,
    output_len: flags.AnswerLen = _COMPARISON.output_len,
    save_result: flags.SaveResult = _COMPARISON.save_result,
    result_dir: flags.ResultDir = _COMPARISON.result_dir,
    result_filename: flags.ResultFilename = _COMPARISON.result_filename,
) -> int:
    """Serve MODEL by pagestream and by others, one after another, and print their figures side by side."""
    # The client and what it counts with: 0.5 s that the other commands do not need.
    from loadtest.compare import run

    parameters = dict(context.params)
    parameters["max_concurrency"] = tuple(max_concurrency or _COMPARISON.max_concurrency)
    parameters["request_rate"] = tuple(request_rate or ())
    with _ended_by_sigterm():
        return run(ComparisonSettings.pick(parameters))


@app.command()
def kernels(
    model: flags.MeasuredModel = _KERNELS.model,
    *,
    kv_cache_dtype: flags.KvCacheDtype = _KERNELS.kv_cache_dtype,
    quantization: flags.Quantization = _KERNELS.quantization,
    num_threads: flags.NumThreads = _KERNELS.num_threads,
    repeats: flags.RepeatsOfAnOp = _KERNELS.repeats,
) -> int:
    """Measure each op of MODEL on this machine's CPU, beside what its memory and its vectors can do at best."""
    # As in the worker; read when torch is imported, which takes 2 s that the other commands do not need.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    from loadtest.kernel_bench import run

    settings = KernelSettings(
        model=model,
        kv_cache_dtype=kv_cache_dtype,
        quantization=quantization,
        num_threads=num_threads,
        repeats=repeats,
    )
    return run(settings)


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Let SIGTERM do what Ctrl-C does, so that no server outlives its measurement."""
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)

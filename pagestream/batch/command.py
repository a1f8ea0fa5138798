"""The command `pagestream run-batch`, with the flags of vLLM's."""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from gateway.settings import GatewaySettings
from gpu_worker.settings import WorkerSettings
from pagestream import options
from shared.demo_model import DEMO
from shared.observability import configure_logging

_POOL: Final = "batch"
_WORKER: Final = WorkerSettings(pool=_POOL, model=DEMO)
_GATEWAY: Final = GatewaySettings(pool=_POOL, model=DEMO)
_NO_LIMIT: Final = 2**31
_REQUESTS_PER_SLOT: Final = 2
"""Under way for each sequence that may run, so that one is ready when another ends."""

InputFile = Annotated[
    Path, typer.Option("--input-file", "-i", help="Requests, one JSON object a line, as OpenAI's batch API takes them.")
]
OutputFile = Annotated[
    Path, typer.Option("--output-file", "-o", help="Answers, one JSON object a line, in the order in which they end.")
]
Model = Annotated[str, typer.Option(help='"demo", a *.gguf file, a Hugging Face directory, or a hub id.')]


def run_batch(  # noqa: PLR0913 - one parameter per flag
    context: typer.Context,
    *,
    input_file: InputFile,
    output_file: OutputFile,
    model: Model = DEMO,
    served_model_name: options.ServedModelName = None,
    dtype: options.Dtype = _WORKER.dtype,
    kv_cache_dtype: options.KvCacheDtype = _WORKER.kv_cache_dtype,
    quantization: options.Quantization = None,
    max_model_len: options.MaxModelLen = None,
    max_logprobs: options.MaxLogprobs = _GATEWAY.max_logprobs,
    enable_auto_tool_choice: options.EnableAutoToolChoice = _GATEWAY.enable_auto_tool_choice,
    tool_call_parser: options.ToolCallParser = None,
    reasoning_parser: options.ReasoningParser = None,
    pooling: options.PoolingKind = _GATEWAY.pooling,
    seed: options.Seed = _WORKER.seed,
    max_num_seqs: options.MaxNumSeqs = _WORKER.max_num_seqs,
    max_num_batched_tokens: options.MaxNumBatchedTokens = _WORKER.max_num_batched_tokens,
    block_size: options.BlockSize = _WORKER.block_size,
    gpu_memory_utilization: options.GpuMemoryUtilization = _WORKER.gpu_memory_utilization,
    kv_cache_memory_bytes: options.KvCacheMemoryBytes = _WORKER.kv_cache_memory_bytes,
    enable_prefix_caching: options.EnablePrefixCaching = _WORKER.enable_prefix_caching,
    device: options.Device = _WORKER.device,
    runner: options.RunnerKind = _WORKER.runner,
    timed_device: options.TimedDevice = _WORKER.timed_device,
    enforce_eager: options.EnforceEager = _WORKER.enforce_eager,
    num_threads: options.NumThreads = None,
    log_level: options.LogLevel = "warning",
) -> int:
    """Answer a file of requests without a server. Ctrl-C keeps the answers that are there."""
    # All of the product: seconds that the other commands do not need.
    from pagestream.batch.job import BatchJob
    from pagestream.batch.runner import BatchFiles

    configure_logging("run-batch", level=log_level)
    given = context.params | {"pool": _POOL, "served_model_name": tuple(served_model_name or ())}
    worker = WorkerSettings(**_fields_of(WorkerSettings, given))
    # Whoever writes the file is who runs it.
    unbounded = {"max_num_queued_reqs": _NO_LIMIT, "max_body_bytes": _NO_LIMIT, "trust_request_chat_template": True}
    gateway = GatewaySettings(**_fields_of(GatewaySettings, given | unbounded))
    files = BatchFiles(input_file, output_file)
    return BatchJob(files, worker, gateway, max_at_once=_REQUESTS_PER_SLOT * max_num_seqs).run()


def _fields_of(kind: type[WorkerSettings | GatewaySettings], given: Mapping[str, Any]) -> dict[str, Any]:
    return {field.name: given[field.name] for field in fields(kind) if given.get(field.name) is not None}

"""The command `pagestream`: reads flags, makes settings of them, and runs the service or the stack they are for."""

import asyncio
import socket
import sys
from importlib.metadata import version as installed_version

import typer

from gateway.settings import GatewaySettings
from gpu_worker.settings import WorkerSettings
from pagestream import bench, options
from pagestream.api_key import new_api_key
from pagestream.batch.command import run_batch
from pagestream.chaos import chaos
from pagestream.dead_letters import command as dead_letters
from pagestream.log_line import LAST_WORD_PREFIX
from pagestream.planning.command import plan
from pagestream.quantize import quantize
from pagestream.simulate import simulate
from pagestream.terminal.command import chat, complete
from scheduler_svc.settings import SchedulerSettings
from shared.checkpoint import resolve
from shared.demo_model import DEMO
from shared.errors import PagestreamError
from shared.lifeline import follow_supervisor
from shared.observability import configure_logging

_POOL = "default"
_STATUS_TIMEOUT_S = 3.0
_SHUTDOWN_TIMEOUT_OF_A_STACK_S = 5.0
"""Who pressed Ctrl-C waits for it."""

_GATEWAY = GatewaySettings(pool=_POOL, model=DEMO)
_WORKER = WorkerSettings(pool=_POOL, model=DEMO)

app = typer.Typer(
    name="pagestream",
    help="Serve language models as microservices on a Redis bus. "
    "Every flag but those of bench may also be set by a variable: --max-model-len by PAGESTREAM_MAX_MODEL_LEN.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(bench.app, name="bench")
app.add_typer(dead_letters.app, name="dlq")
for _command in (run_batch, chat, complete, plan, quantize, chaos, simulate):
    app.command()(_command)
app.command("api-key")(new_api_key)


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit status: 0, 1 for a wrong setting, 2 for a wrong flag, 130 for Ctrl-C."""
    try:
        return int(app(arguments, standalone_mode=False) or 0)
    except typer.TyperException as error:
        return _last_word(error.format_message(), status=error.exit_code)
    except PagestreamError as error:
        return _last_word(str(error), status=1)
    except (KeyboardInterrupt, typer.Abort):
        return 130


def _last_word(message: str, *, status: int) -> int:
    print(f"{LAST_WORD_PREFIX}{' '.join(message.split())}", file=sys.stderr)  # noqa: T201 - this is the terminal's
    return status


@app.command()
def serve(  # noqa: PLR0913 - one parameter per flag
    context: typer.Context,
    model: options.Model = DEMO,
    *,
    served_model_name: options.ServedModelName = None,
    dtype: options.Dtype = _WORKER.dtype,
    kv_cache_dtype: options.KvCacheDtype = _WORKER.kv_cache_dtype,
    quantization: options.Quantization = None,
    max_model_len: options.MaxModelLen = None,
    seed: options.Seed = _WORKER.seed,
    host: options.Host = _GATEWAY.host,
    port: options.Port = _GATEWAY.port,
    api_key: options.ApiKey = None,
    api_key_file: options.ApiKeyFile = None,
    ssl_certfile: options.SslCertfile = None,
    ssl_keyfile: options.SslKeyfile = None,
    max_num_queued_reqs: options.MaxNumQueuedReqs = _GATEWAY.max_num_queued_reqs,
    pooling: options.PoolingKind = _GATEWAY.pooling,
    max_file_bytes: options.MaxFileBytes = _GATEWAY.max_file_bytes,
    max_response_store_bytes: options.MaxResponseStoreBytes = _GATEWAY.max_response_store_bytes,
    max_file_store_bytes: options.MaxFileStoreBytes = _GATEWAY.max_file_store_bytes,
    max_stream_store_bytes: options.MaxStreamStoreBytes = _GATEWAY.max_stream_store_bytes,
    max_logprobs: options.MaxLogprobs = _GATEWAY.max_logprobs,
    trust_request_chat_template: options.TrustRequestChatTemplate = _GATEWAY.trust_request_chat_template,
    enable_auto_tool_choice: options.EnableAutoToolChoice = _GATEWAY.enable_auto_tool_choice,
    tool_call_parser: options.ToolCallParser = None,
    reasoning_parser: options.ReasoningParser = None,
    shutdown_timeout: options.ShutdownTimeout = _SHUTDOWN_TIMEOUT_OF_A_STACK_S,
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
    workers: options.Workers = 1,
    redis_url: options.OwnRedisUrl = None,
    pool: options.Pool = _POOL,
    log_level: options.LogLevel = "info",
) -> int:
    """Serve a model on this machine: Redis, scheduler, workers and gateway, until Ctrl-C."""
    # The services' commands need neither: 0.1 s of their start.
    from rich.console import Console

    from pagestream.stack import LocalStack, StackSettings

    resolve(model)
    settings = StackSettings(
        model_name=served_model_name[0] if served_model_name else model,
        needs_api_key=bool(api_key or api_key_file),
        host=host,
        port=port,
        num_workers=workers,
        num_threads=num_threads,
        is_https=bool(ssl_certfile),
        shutdown_timeout_s=shutdown_timeout,
        redis_url=redis_url,
        environment=options.as_environment(context.params),
    )
    return LocalStack(settings, console=Console(highlight=False)).run()


@app.command()
def gateway(  # noqa: PLR0913 - one parameter per flag
    model: options.Model = DEMO,
    *,
    served_model_name: options.ServedModelName = None,
    host: options.Host = _GATEWAY.host,
    port: options.Port = _GATEWAY.port,
    api_key: options.ApiKey = None,
    api_key_file: options.ApiKeyFile = None,
    ssl_certfile: options.SslCertfile = None,
    ssl_keyfile: options.SslKeyfile = None,
    max_model_len: options.MaxModelLen = None,
    max_num_queued_reqs: options.MaxNumQueuedReqs = _GATEWAY.max_num_queued_reqs,
    pooling: options.PoolingKind = _GATEWAY.pooling,
    max_file_bytes: options.MaxFileBytes = _GATEWAY.max_file_bytes,
    max_response_store_bytes: options.MaxResponseStoreBytes = _GATEWAY.max_response_store_bytes,
    max_file_store_bytes: options.MaxFileStoreBytes = _GATEWAY.max_file_store_bytes,
    max_stream_store_bytes: options.MaxStreamStoreBytes = _GATEWAY.max_stream_store_bytes,
    max_logprobs: options.MaxLogprobs = _GATEWAY.max_logprobs,
    trust_request_chat_template: options.TrustRequestChatTemplate = _GATEWAY.trust_request_chat_template,
    enable_auto_tool_choice: options.EnableAutoToolChoice = _GATEWAY.enable_auto_tool_choice,
    tool_call_parser: options.ToolCallParser = None,
    reasoning_parser: options.ReasoningParser = None,
    shutdown_timeout: options.ShutdownTimeout = _GATEWAY.shutdown_timeout,
    redis_url: options.RedisUrl = _GATEWAY.redis_url,
    pool: options.Pool = _POOL,
    log_level: options.LogLevel = "info",
) -> int:
    """Run one gateway: OpenAI's API over HTTP."""
    follow_supervisor()
    configure_logging("gateway", level=log_level)
    settings = GatewaySettings(
        model=model,
        served_model_name=tuple(served_model_name or ()),
        host=host,
        port=port,
        api_keys=tuple(api_key or ()),
        api_key_file=api_key_file,
        ssl_certfile=ssl_certfile,
        ssl_keyfile=ssl_keyfile,
        max_model_len=max_model_len,
        max_num_queued_reqs=max_num_queued_reqs,
        pooling=pooling,
        max_file_bytes=max_file_bytes,
        max_response_store_bytes=max_response_store_bytes,
        max_file_store_bytes=max_file_store_bytes,
        max_stream_store_bytes=max_stream_store_bytes,
        max_logprobs=max_logprobs,
        trust_request_chat_template=trust_request_chat_template,
        enable_auto_tool_choice=enable_auto_tool_choice,
        tool_call_parser=tool_call_parser,
        reasoning_parser=reasoning_parser,
        shutdown_timeout=shutdown_timeout,
        redis_url=redis_url,
        pool=pool,
    )
    # FastAPI: 0.5 s that the other commands do not need.
    from gateway.main import run

    return run(settings)


@app.command()
def scheduler(
    redis_url: options.RedisUrl = _GATEWAY.redis_url,
    pool: options.Pool = _POOL,
    log_level: options.LogLevel = "info",
) -> int:
    """Run one scheduler. A second one stands by until the first is gone."""
    follow_supervisor()
    configure_logging("scheduler", level=log_level)
    # Redis's client: what the other commands do not need at their start.
    from scheduler_svc.main import run

    return run(SchedulerSettings(redis_url=redis_url, pool=pool, log_level=log_level))


@app.command()
def worker(  # noqa: PLR0913 - one parameter per flag
    model: options.Model = DEMO,
    *,
    served_model_name: options.ServedModelName = None,
    dtype: options.Dtype = _WORKER.dtype,
    kv_cache_dtype: options.KvCacheDtype = _WORKER.kv_cache_dtype,
    quantization: options.Quantization = None,
    max_model_len: options.MaxModelLen = None,
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
    redis_url: options.RedisUrl = _WORKER.redis_url,
    pool: options.Pool = _POOL,
    log_level: options.LogLevel = "info",
) -> int:
    """Run one worker: it holds the model and computes."""
    follow_supervisor()
    configure_logging("worker", level=log_level)
    settings = WorkerSettings(
        model=model,
        served_model_name=tuple(served_model_name or ()),
        dtype=dtype,
        kv_cache_dtype=kv_cache_dtype,
        quantization=quantization,
        max_model_len=max_model_len,
        seed=seed,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max_num_batched_tokens,
        block_size=block_size,
        gpu_memory_utilization=gpu_memory_utilization,
        kv_cache_memory_bytes=kv_cache_memory_bytes,
        enable_prefix_caching=enable_prefix_caching,
        device=device,
        runner=runner,
        timed_device=timed_device,
        enforce_eager=enforce_eager,
        num_threads=num_threads,
        redis_url=redis_url,
        pool=pool,
    )
    # torch: 2 s that the other commands do not need.
    from gpu_worker.main import run

    return run(settings)


@app.command()
def status(
    *,
    redis_url: options.RedisUrl = _GATEWAY.redis_url,
    pool: options.Pool = _POOL,
    worker_on: options.WorkerOn = None,
    as_json: options.AsJson = False,
) -> int:
    """Say how a pool is. Succeeds if a scheduler leads it, or as --worker-on says."""
    # Redis's client: what the other commands do not need at their start.
    from rich.console import Console

    from pagestream.pool_report import as_json as report_as_json
    from pagestream.pool_report import show
    from shared.redis_bus.observer import RedisPoolObserver

    view = asyncio.run(RedisPoolObserver(redis_url, pool).look(timeout_s=_STATUS_TIMEOUT_S))
    if as_json:
        typer.echo(report_as_json(view))
    else:
        show(view, Console(highlight=False))
    if worker_on is not None:
        host = socket.gethostname() if worker_on == "." else worker_on
        if not any(worker.host == host for worker in view.workers):
            return _last_word(f"no worker on {host} has a heartbeat in pool {pool}", status=1)
    elif view.status is None:
        return _last_word(f"no scheduler leads pool {pool}", status=1)
    return 0


@app.command()
def download(model: options.Model = DEMO) -> int:
    """Fetch a model into this machine's cache, and print where it is."""
    typer.echo(resolve(model).path)
    return 0


@app.command()
def version() -> int:
    """Print the version."""
    typer.echo(f"pagestream {installed_version('pagestream')} on Python {'.'.join(map(str, sys.version_info[:3]))}")
    return 0

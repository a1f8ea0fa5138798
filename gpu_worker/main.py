"""The worker as a process: builds the runner and the bus, and serves until it is told to stop."""

import gc
import logging
import signal

from gpu_worker.runner import Runner
from gpu_worker.runner_building import build_runner
from gpu_worker.service import WorkerService
from gpu_worker.settings import WorkerSettings
from shared.messages import WorkerCapabilities
from shared.redis_bus import RedisWorkerBus, await_redis_blocking
from shared.stop_signals import STOP_SIGNALS, exit_on_stop_signals

_log = logging.getLogger(__name__)


def run(settings: WorkerSettings) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit code.

    Raises:
        ConfigurationError: a setting or the model is wrong.
    """
    exit_on_stop_signals()
    runner = build_runner(settings)
    gc.collect()
    gc.freeze()  # the weights' objects live for ever: later collections need not look at them
    return serve(runner, redis_url=settings.redis_url, pool=settings.pool)


def serve(runner: Runner, *, redis_url: str, pool: str) -> int:
    """Serve a pool with a runner until SIGTERM or SIGINT; returns the exit code.

    Raises:
        ConfigurationError: the url is wrong, or the server will not do.
    """
    bus = await_redis_blocking(lambda: RedisWorkerBus.connect(redis_url, pool))
    service = WorkerService(bus, runner)
    for number in STOP_SIGNALS:
        signal.signal(number, lambda *_: service.stop())
    _log.info("serving %s", _summary(runner.capabilities))
    try:
        return service.run()
    finally:
        bus.close()


def _summary(capabilities: WorkerCapabilities) -> str:
    """What is served, in one line."""
    return (
        f"{capabilities.model} on {capabilities.device}: {capabilities.max_num_seqs} sequences of up to "
        f"{capabilities.max_model_len} tokens, {capabilities.num_blocks} blocks of {capabilities.block_size} tokens"
    )

"""How each server of a comparison is started: the same model, limits and precision, and no prefix cache."""

import os
import sys
from pathlib import Path
from typing import Final

from loadtest.comparison_settings import ComparisonSettings
from loadtest.server import ServerCommand, pagestream_command
from shared.checkpoint import resolve
from shared.errors import ConfigurationError

_VLLM_START_TIMEOUT_S: Final = 900.0
"""It compiles the model at its start."""


def commands(settings: ComparisonSettings) -> list[ServerCommand]:
    """Our own server first, then the peers that are asked for. May write the model's export, once.

    Raises:
        ConfigurationError: a peer is not there, or the model cannot be had in its format.
    """
    limits = ("--max-model-len", str(settings.max_model_len))
    seqs = ("--max-num-seqs", str(settings.max_num_seqs))
    # The last of two flags wins.
    found = [pagestream_command(settings.model, *limits, *seqs, "--no-enable-prefix-caching", *settings.serve_args)]
    if settings.vllm is not None:
        flags = (*limits, *seqs, "--dtype", "float32", "--no-enable-prefix-caching", *settings.vllm_args)
        found.append(_vllm_command(settings.vllm, settings.model, flags))
    if settings.transformers:
        command = (sys.executable, "-m", "loadtest.transformers_server", settings.model, *limits)
        found.append(
            ServerCommand(name="transformers", command=(*command, "--max-batch-size", str(settings.max_num_seqs)))
        )
    return found


def _vllm_command(environment: Path, model: str, flags: tuple[str, ...]) -> ServerCommand:
    environment = environment.expanduser().absolute()
    program = environment / "bin" / "vllm"
    if not program.is_file():
        raise ConfigurationError(
            f"--vllm {environment} has no bin/vllm; name a virtual environment that vLLM is installed in"
        )
    # torch and transformers: seconds that a comparison without vLLM does not need.
    from loadtest.huggingface_export import huggingface_directory

    directory = huggingface_directory(resolve(model))
    command = (str(program), "serve", str(directory), "--served-model-name", model, "--host", "127.0.0.1", *flags)
    return ServerCommand(
        name="vllm",
        command=command,
        environment=_vllm_environment(environment),
        start_timeout_s=_VLLM_START_TIMEOUT_S,
    )


def _vllm_environment(environment: Path) -> dict[str, str]:
    """Ours, without our own packages; what is set there wins. The VLLM_CPU variables speak to its CPU builds only."""
    inherited = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "VIRTUAL_ENV"}}
    chosen = {
        "VLLM_CPU_KVCACHE_SPACE": "2",
        "VLLM_CPU_OMP_THREADS_BIND": _processors(),
        "HF_HUB_OFFLINE": "1",
    }
    # As vLLM's manual has it: without this library PyTorch's threads are those of another one, which are slower.
    if library := next(environment.rglob("libiomp5.so"), None):
        chosen["LD_PRELOAD"] = str(library)
    return chosen | inherited


def _processors() -> str:
    """Those that this process may use, such as "0-3" or "0,2"."""
    allowed = sorted(os.sched_getaffinity(0))
    is_range = allowed == list(range(allowed[0], allowed[-1] + 1))
    return f"{allowed[0]}-{allowed[-1]}" if is_range else ",".join(map(str, allowed))

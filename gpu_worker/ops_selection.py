"""Chooses the ops that compute: our native library on a CPU, our Triton kernels on a GPU, else PyTorch's own."""

import logging
import os
from pathlib import Path
from typing import Final

import torch

from kernels import native
from kernels.native_build import VARIANTS, NativeBuildError, build, runnable_variants
from kernels.ops import Ops, select
from shared.demo_model import cache_directory
from shared.errors import ConfigurationError

_log = logging.getLogger(__name__)

_FORCE: Final = "PAGESTREAM_CPU_KERNELS"
"""The environment's word: "torch", "native", or one of the native library's instruction sets."""


def choose_ops(device: torch.device, *, block_size: int, head_dim: int) -> Ops:
    """The best ops for a device and a model's shapes. May compile for some seconds, once.

    Raises:
        ConfigurationError: the environment forces ops that cannot be had.
    """
    forced = os.environ.get(_FORCE, "auto")
    if forced not in ("auto", "torch", "native", *VARIANTS):
        choices = ", ".join(("torch", "native", *VARIANTS))
        raise ConfigurationError(f"{_FORCE} is {forced!r}; use one of {choices}, or unset it")
    if device.type == "cuda":
        return _triton(device)
    if device.type != "cpu" or forced == "torch":
        return select(device)
    try:
        return _native(forced if forced in VARIANTS else None, block_size, head_dim)
    except (NativeBuildError, OSError) as error:
        if forced != "auto":
            raise ConfigurationError(f"{_FORCE} is {forced!r}, but there is no native library: {error}") from error
        _log.warning("the native CPU kernels are not used, PyTorch's are several times slower: %s", error)
        return select(device)


def _triton(device: torch.device) -> Ops:
    try:
        # Only GPUs need Triton, which takes a second to import.
        from kernels.triton.ops import TRITON
    except ImportError as error:
        _log.warning("the Triton kernels are not used, PyTorch's plain ones are many times slower: %s", error)
        return select(device)
    return TRITON


def _native(variant: str | None, block_size: int, head_dim: int) -> Ops:
    if not native.supports(block_size=block_size, head_dim=head_dim):
        raise NativeBuildError(
            f"they need --block-size and head_dim to be multiples of {native.KEY_TILE}, "
            f"these are {block_size} and {head_dim}"
        )
    return native.load(native_library(variant))


def native_library(variant: str | None = None) -> Path:
    """The compiled library for an instruction set, by default this machine's best that the compiler knows.

    May compile for some seconds, once.

    Raises:
        NativeBuildError: it cannot be compiled or stored.
    """
    directory = cache_directory() / "kernels"
    if variant is not None:
        return build(directory, variant)
    errors = []
    for candidate in runnable_variants():
        try:
            return build(directory, candidate)
        except NativeBuildError as error:
            errors.append(error)
    raise errors[0]

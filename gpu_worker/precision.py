"""Which numbers a model is computed with: what `--dtype` and its kin mean on the device at hand."""

from dataclasses import dataclass, replace
from typing import Final

import torch

from gpu_worker.checkpoint_formats import METHODS, CheckpointFormat
from gpu_worker.quantization import Quantization
from gpu_worker.weights import MatrixDtype
from kernels.ops import Ops
from shared.errors import ConfigurationError
from shared.model_config import ModelConfig

_DTYPES: Final = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_CACHE_DTYPES: Final = (
    _DTYPES
    | {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    | {"int8": torch.int8, "fp8": torch.float8_e4m3fn, "fp8_e4m3": torch.float8_e4m3fn}
)


@dataclass(frozen=True, slots=True)
class Precision:
    """One model's numbers.

    Attributes:
        matrices: Weights of the linear layers and the embedding.
        activations: Everything that is computed, and the norms' weights.
        cache: Keys and values.
        quantization: What the matrices are rounded to from there, if anything.
        checkpoint_method: How the checkpoint's own matrices are quantized, if they are.
    """

    matrices: MatrixDtype
    activations: torch.dtype
    cache: torch.dtype
    quantization: Quantization | None = None
    checkpoint_method: str | None = None

    @classmethod
    def choose(
        cls,
        dtype: str,
        config: ModelConfig,
        ops: Ops,
        device: torch.device,
        *,
        kv_cache_dtype: str = "auto",
        quantization: str | None = None,
    ) -> "Precision":
        """What `--dtype`, `--kv-cache-dtype` and `--quantization` ask for.

        "auto" on a CPU computes in fp32 with the checkpoint's own values, which stay in the bytes they are stored in if
        the ops can multiply those; on a GPU it is the checkpoint's dtype. A dtype that is named holds for matrices and
        cache; activations follow it where the ops know one dtype only. A cache with fewer bits than "auto" gives it
        rounds keys and values, and a quantization rounds weights: answers may then differ from transformers'. The name
        of a checkpoint's own format, such as "awq", rounds nothing.

        Raises:
            CheckpointError: the checkpoint is quantized in a format that is not read.
            ConfigurationError: there is no such dtype or quantization, or the ops do not know it.
        """
        found = cls._of_dtype(dtype, config, ops, device)
        method = None if config.quantization is None else CheckpointFormat.read(config.quantization).method
        rounds = quantization is not None and quantization not in METHODS
        if quantization in METHODS and quantization != method:
            raise ConfigurationError(
                f"--quantization {quantization} names the checkpoint's own format, but this one is "
                f"{method or 'not quantized'}; leave it out, or make such a checkpoint by pagestream quantize"
            )
        return replace(
            found,
            cache=_cache_dtype(kv_cache_dtype, found, ops),
            quantization=_quantization(quantization, ops) if rounds and quantization is not None else None,
            checkpoint_method=method,
        )

    @classmethod
    def _of_dtype(cls, dtype: str, config: ModelConfig, ops: Ops, device: torch.device) -> "Precision":
        if dtype == "auto" and ops.is_mixed_precision:
            return cls("stored", torch.float32, torch.float32)
        if dtype == "auto":
            dtype = "float32" if device.type == "cpu" else config.dtype
        if dtype not in _DTYPES:
            raise ConfigurationError(f"--dtype {dtype!r} is not served; use auto, {', '.join(_DTYPES)}")
        named = _DTYPES[dtype]
        return cls(named, torch.float32 if ops.is_mixed_precision else named, named)

    @property
    def dtype_name(self) -> str:
        """That of the matrices, as people write it: "stored" or "float32"."""
        return str(self.matrices).removeprefix("torch.")

    @property
    def kv_cache_dtype_name(self) -> str:
        """That of keys and values."""
        return str(self.cache).removeprefix("torch.")

    @property
    def quantization_name(self) -> str:
        """As the flag has it, or "none"."""
        return self.checkpoint_method or "none" if self.quantization is None else self.quantization.value

    def __str__(self) -> str:
        rounded = "" if self.quantization is None else f" rounded as {self.quantization.value}"
        kept = "" if self.checkpoint_method is None else f"{self.checkpoint_method} as "
        numbers = f"{kept}{self.matrices} matrices{rounded}, {self.activations} activations, {self.cache} cache"
        return numbers.replace("torch.", "")


def _cache_dtype(name: str, found: Precision, ops: Ops) -> torch.dtype:
    if name == "auto":
        return found.cache
    if name not in _CACHE_DTYPES:
        raise ConfigurationError(f"--kv-cache-dtype {name!r} is not served; use auto, {', '.join(_CACHE_DTYPES)}")
    cache = _CACHE_DTYPES[name]
    if cache == torch.float8_e4m3fn:
        if not ops.caches_fp8:
            raise ConfigurationError(
                f"--kv-cache-dtype {name} needs the Triton kernels on a GPU, but {ops.name}'s are used; use int8 "
                "or fp16 on a CPU, or leave it out"
            )
        return cache
    if cache != found.activations and not ops.is_mixed_precision:
        raise ConfigurationError(
            f"--kv-cache-dtype {name} needs the native CPU kernels, but {ops.name}'s are used, which "
            f"keep keys and values as {found.activations}; use auto, on a GPU fp8, or install a C++ compiler"
        )
    return cache


def _quantization(name: str, ops: Ops) -> Quantization:
    if name not in list(Quantization):
        raise ConfigurationError(
            f"--quantization {name!r} is not served; use {', '.join(Quantization)}, the checkpoint's own format "
            f"({', '.join(METHODS)}), or leave it out"
        )
    if not ops.is_mixed_precision:
        raise ConfigurationError(
            f"--quantization {name} needs the native CPU kernels, but {ops.name}'s are used, which multiply numbers "
            "of one dtype; leave it out, or install a C++ compiler"
        )
    return Quantization(name)

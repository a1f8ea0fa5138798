"""The table of ops a model is built from, one for each kind of device. A new kernel enters here and nowhere else."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from kernels import cpu, cpu_attention, cpu_sampling, reference
from kernels.arguments import Linear, PagedAttention, PagedBatch, SamplingTensors


@dataclass(frozen=True, slots=True)
class Ops:
    """What a device can do. `kernels.reference` documents each op; every other one does the same."""

    pack_linear: Callable[[Tensor, Tensor | None], Linear]
    rms_norm: Callable[[Tensor, Tensor, float], Tensor]
    add_rms_norm: Callable[[Tensor, Tensor, Tensor, float], tuple[Tensor, Tensor]]
    rotate: Callable[[Tensor, Tensor, Tensor], Tensor]
    silu_and_mul: Callable[[Tensor], Tensor]
    write_kv: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], None]
    plan_attention: Callable[[PagedBatch], PagedAttention]
    sample: Callable[[Tensor, SamplingTensors], Tensor]


REFERENCE: Final = Ops(
    pack_linear=reference.pack_linear,
    rms_norm=reference.rms_norm,
    add_rms_norm=reference.add_rms_norm,
    rotate=reference.rotate,
    silu_and_mul=reference.silu_and_mul,
    write_kv=reference.write_kv,
    plan_attention=reference.plan_attention,
    sample=reference.sample,
)

CPU: Final = Ops(
    pack_linear=cpu.pack_linear,
    rms_norm=cpu.rms_norm,
    add_rms_norm=cpu.add_rms_norm,
    rotate=cpu.rotate,
    silu_and_mul=cpu.silu_and_mul,
    write_kv=cpu.write_kv,
    plan_attention=cpu_attention.plan_attention,
    sample=cpu_sampling.sample,
)


def select(device: torch.device) -> Ops:
    """The best ops there are for a device."""
    return CPU if device.type == "cpu" else REFERENCE

"""The table of ops for a GPU: what is ours in Triton, and what cuBLAS does for dense matrices."""

from typing import Final

from kernels import reference, reference_linear
from kernels.ops import Ops
from kernels.triton.activations import gelu_and_mul, silu_and_mul
from kernels.triton.attention import plan_attention
from kernels.triton.block_copy import copy_blocks
from kernels.triton.cache_write import rotate_and_write
from kernels.triton.device import INTERPRETED
from kernels.triton.graphs import capture
from kernels.triton.linear import keeps, pack_linear
from kernels.triton.norms import add_rms_norm, norm_heads, rms_norm
from kernels.triton.sampling import sample

TRITON: Final = Ops(
    name="triton",
    is_mixed_precision=False,
    pack_linear=pack_linear,
    pack_embedding=reference_linear.pack_embedding,
    rms_norm=rms_norm,
    add_rms_norm=add_rms_norm,
    rotate_and_write=rotate_and_write,
    add=reference.add,
    scale=reference.scale,
    silu_and_mul=silu_and_mul,
    gelu_and_mul=gelu_and_mul,
    norm_heads=norm_heads,
    plan_attention=plan_attention,
    argmax=reference.argmax,
    sample=sample,
    cache_shapes=reference.cache_shapes,
    copy_blocks=copy_blocks,
    keeps=keeps,
    caches_fp8=True,
    has_sinks=True,
    captures_padded=True,
    capture=None if INTERPRETED else capture,
)

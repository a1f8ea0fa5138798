"""The table of ops for a GPU: what is ours in Triton, and what cuBLAS does for dense matrices."""

from typing import Final

from kernels import reference
from kernels.ops import Ops
from kernels.triton.activations import gelu_and_mul, silu_and_mul
from kernels.triton.attention import plan_attention
from kernels.triton.cache_write import rotate_and_write
from kernels.triton.norms import add_rms_norm, rms_norm
from kernels.triton.sampling import sample

TRITON: Final = Ops(
    name="triton",
    is_mixed_precision=False,
    pack_linear=reference.pack_linear,
    pack_embedding=reference.pack_embedding,
    rms_norm=rms_norm,
    add_rms_norm=add_rms_norm,
    rotate_and_write=rotate_and_write,
    add=reference.add,
    scale=reference.scale,
    silu_and_mul=silu_and_mul,
    gelu_and_mul=gelu_and_mul,
    norm_heads=reference.norm_heads,
    plan_attention=plan_attention,
    argmax=reference.argmax,
    sample=sample,
    cache_shapes=reference.cache_shapes,
)

"""The ops as Triton kernels, for NVIDIA from sm_80 on and for AMD's gfx942.

Imported where there is a GPU, or to be tested: on a CPU, Triton's interpreter runs them (TRITON_INTERPRET=1, before
Triton is imported). It takes bf16 for integers in all arithmetic, so there
kernels widen every operand first (`WIDEN`).
"""

"""The ops as Triton kernels, for NVIDIA from sm_80 on and for AMD's gfx942.

Imported where there is a GPU, or to be tested. On a CPU, Triton's interpreter runs them (TRITON_INTERPRET=1, before anyone
imports Triton). It takes bf16 for integers in all arithmetic, so kernels widen every operand there (`WIDEN`).
"""

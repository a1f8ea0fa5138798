"""Every Triton kernel beside its plain reference: in Triton's interpreter (the tests), on a GPU (`make gpu-check`).

One list for both: a check makes its inputs and computes the reference on the CPU, and runs the kernel where it is told.
"""

"""Compiles the kernels ahead of time, for GPUs that this machine does not have, and checks what they take."""

"""`make gpu-check`: the whole truth about the kernels on this machine's GPU, ending in tables to paste."""

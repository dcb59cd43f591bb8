"""Triton kernels, each beside its plain twin: `x.py` is the twin and the choice, `x_triton.py` the kernel."""

"""How fast the ops are, beside what one would use instead and beside what the machine allows.

``python -m benchmarks`` measures, ``benchmarks.report`` writes tables and plots of committed results, and
``benchmarks.targets`` prints what the project promises next to what it measures. For machines with a GPU:
``benchmarks.parity`` compares CPU and CUDA kernels, ``benchmarks.sanitize`` is what compute-sanitizer runs, and
``benchmarks.gpu_gate`` does all that needs a GPU.
"""

"""The parts of ``benchmarks.gpu_gate``: what they run, what they make of it, and the page about it."""

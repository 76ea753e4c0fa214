"""How fast the ops are, beside what one would use instead and beside what the machine allows.

``python -m benchmarks`` measures, ``python -m benchmarks.report`` writes tables and plots of committed results, and
``python -m benchmarks.targets`` prints what the project promises next to what it measures.
"""

"""The benchmarks: mynosql and its rivals in one run, side by side. `python -m tests.bench --help`; docs/BENCHMARKS.md.

A rival is one class in rivals.py, a measure one line in measures.py. Every run of a measure has its own fresh process
and folder; rounds are interleaved, so that a drift of the machine hits all alike; the table shows medians.
"""

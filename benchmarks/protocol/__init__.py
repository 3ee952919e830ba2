"""The parts of `benchmarks/achievability.py`, one concept per file."""

"""The parts of `benchmarks/collection.py`, one concept per file."""

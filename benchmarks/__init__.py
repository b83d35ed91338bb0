"""Benchmarks: compares each figure with its physical limit, measured in the same run on the same machine."""

"""Benchmarks: each figure beside the physical limit, measured in the same run on the same machine."""

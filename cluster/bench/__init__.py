"""Benchmarks that users run: kernels and engine beside the machine's own limits, measured in the same run."""

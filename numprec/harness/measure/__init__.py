"""Measures kernels and models: times, errors, counts, machine code, and what other libraries make of the same data."""

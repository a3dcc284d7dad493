"""Convolution, pooling and batch normalisation."""

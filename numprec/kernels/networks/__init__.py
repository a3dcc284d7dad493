"""Layers, their loss, and the steps of a training."""

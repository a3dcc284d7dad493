"""Least squares: normal equations, QR, and refinement."""

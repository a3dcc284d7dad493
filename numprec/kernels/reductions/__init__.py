"""Sums and maxima: many threads make one number."""

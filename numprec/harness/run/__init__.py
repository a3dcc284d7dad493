"""Runs cells: which, in what order, in which processes, on which machines."""

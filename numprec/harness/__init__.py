"""Measures what a precision costs and what it gains; `bench.py` is its command line.

A folder uses only those that stand above it:

    record     what a run leaves behind: rows, their schema, the files that hold them, what they were measured on
    judge      what rows say: statistics, verdicts, recommendations
    measure    kernels and models: cells, times, errors, counts, machine code, peers
    show       tables, figures, the page of a run, the README's sections, two runs compared
    run        which cells run, in what order, in which processes, on which machines
    proofs     commands that prove what is too long for the tests
"""

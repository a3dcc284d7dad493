"""Measures what a precision costs and what it gains; `bench.py` is its command line.

    run          one invocation of bench.py, from its options to its exit code
    cases        what there is to run: every rung of every operation, every model
    timing       how calls are timed
    statistics   what the samples support
    sweep        runs the cases: verify, then time; fit, then score
    store        the rows of a run, on disk
    environment  what they were measured on
    tables       the rows as text
    figures      the rows as pictures
    emulation    how fast the emulator is, by itself
"""

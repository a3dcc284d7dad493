"""Measures what a precision costs and what it gains; `bench.py` is its command line.

    run          one invocation of bench.py, from its options to its exit code
    planning     in which order, for how long, and what a budget leaves out
    folders      a new folder for it, or a run that is gone on with
    executors    where its cells run: worker, a process of this machine; cluster, many of them
    precompile   compiles for the emulator before a first run
    progress     what it says meanwhile
    kills        shows that a run survives being killed
    streams      what becomes of its output where nobody can read it
    commands     what bench.py does besides running
    cases        what there is to run: every rung of every operation, every model
    timing       how calls are timed
    statistics   what the samples support
    outcomes     the seeds of a model in one precision, taken together
    verdicts     equal to fp64, better, worse, undecided, or it fails
    conclusions  recommendations, and the answer to the question that the project asks
    roofline     what bounds a kernel
    sweep        runs a cell of any kind: launches of a kernel, verified and timed; fits of a model, scored; peers
    problems     the data of a fit, split, and grown where that is asked for
    rows         how a row begins, and how it fails
    telemetry    clocks, energy and memory, and the facts of a card
    peaks        what the device can do at best
    store        the rows of a run, on disk
    schema       which values they may have
    environment  what they were measured on
    tables       the rows as text
    figures      the rows as pictures
    summary      a run in three small tables
    report       a run as one page of HTML
    published    the result tables of the README
    compare      two runs
    wording      numbers and names in sentences
    sanitizing   looks for bugs in all kernels
    planted      shows which bugs it finds
    ledger       work that many processes share, and the file of what came of it
    machine_code instructions, registers and memory of compiled kernels
    gpu_model    how much of a GPU kernels can use, by a model
    emulation    how fast the emulator is, by itself
"""

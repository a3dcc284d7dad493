"""What bench.py does besides running: lists, and commands about runs that are there."""
import sys

from numprec.harness.measure import cases
from numprec.harness.record.exits import OK, USAGE, Refused, typed
from numprec.precision import GROUPS, PRECISIONS


def about(command):
    """Runs a command about runs on the disk: it returns the paths that it wrote, or (text, exit code)."""
    try:
        outcome = command()
    except (FileNotFoundError, NotADirectoryError) as error:
        print(f"bench.py: no run there: {error.filename or error}", file=sys.stderr)
        return USAGE
    except (OSError, ValueError) as error:
        print(f"bench.py: {error}", file=sys.stderr)
        return USAGE
    if isinstance(outcome, tuple):
        text, code = outcome
        if text:
            print(text)
        return code
    print("written: " + (", ".join(map(typed, outcome)) or "nothing"))
    return OK


def clear_cache():
    """Empties the emulator's cache of compiled kernels."""
    from numprec import emulator
    emulator.clear_cache()
    return OK


def show_list():
    """What there is to choose from."""
    from numprec import kernels
    print("precisions")
    for name, p in PRECISIONS.items():
        print(f"  {name:<12}{p.roles}")
    print("  groups      " + ", ".join((*GROUPS, "native")))
    print("models")
    for model in cases.MODELS:
        print(f"  {model.name:<24}on {model.data}")
    print("chapters, their operations, and the rungs of each, slowest first")
    operations = kernels.operations().values()
    for chapter in dict.fromkeys(operation.chapter for operation in operations):
        print(f"  {chapter}")
        for operation in operations:
            if operation.chapter == chapter:
                print(f"    {operation.name:<24}{', '.join(rung.name for rung in operation.rungs)}")
    return OK


def sanitize(options):
    """Looks for bugs in kernels."""
    from numprec.harness.measure import sanitizing
    return _with_chosen(options, lambda names, precisions: sanitizing.run(
        names, precisions, options.seeds or sanitizing.SEEDS, options.out))


def profile(options):
    """Counts what kernels make a GPU do."""
    from numprec.harness.measure import profiling
    return _with_chosen(options, lambda names, precisions: profiling.show(
        names, precisions, options.scale, options.lines))


def _with_chosen(options, command):
    """Calls `command(operations, precisions)` with what the options name; what cannot be done is a sentence."""
    from numprec.harness.run import run
    from numprec.precision import select
    try:
        names = run.operations_named(options)
        cases.rungs(names)
        precisions = select(options.precision)
    except ValueError as error:
        print(f"bench.py: {error}", file=sys.stderr)
        return USAGE
    try:
        return command(names, precisions)
    except Refused as refused:
        print(f"bench.py: {refused}", file=sys.stderr)
        return refused.code

"""What bench.py does other than run: lists, and commands about existing runs."""
import sys

from numprec.harness.measure import cases
from numprec.harness.record.exits import OK, USAGE, Refused, typed
from numprec.harness.run.request import listed, operations_named
from numprec.precision import GROUPS, PRECISIONS, select


def about(command):
    """Runs a command about runs on the disk: it returns the paths that it wrote, or (text, exit code)."""
    try:
        outcome = command()
    except (FileNotFoundError, NotADirectoryError) as error:
        print(f"bench.py: no run found: {error.filename or error}", file=sys.stderr)
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


def sanitize(chosen, precision, seeds, out):
    """Looks for bugs in kernels. `chosen` are the lists of --operation and --chapter."""
    from numprec.harness.measure import sanitizing
    return _with_chosen(chosen, precision, lambda names, precisions: sanitizing.run(
        names, precisions, seeds or sanitizing.SEEDS, out))


def profile(chosen, precision, scale, lines):
    """Counts what kernels make a GPU do."""
    from numprec.harness.measure import profiling
    return _with_chosen(chosen, precision, lambda names, precisions: profiling.show(
        names, precisions, scale, lines))


def _with_chosen(chosen, precision, command):
    """Calls `command(operations, precisions)` with what the lists name; what cannot be done is a sentence."""
    try:
        names = operations_named(*map(listed, chosen))
        cases.rungs(names)
        precisions = select(precision)
    except ValueError as error:
        print(f"bench.py: {error}", file=sys.stderr)
        return USAGE
    try:
        return command(names, precisions)
    except Refused as refused:
        print(f"bench.py: {refused}", file=sys.stderr)
        return refused.code

"""Plants bugs in the textbook's kernels and shows which of them the sanitizer finds.

    python -m numprec.harness.proofs.planted --out data/results/planted.jsonl

A bug is a change of one line of a chapter, of one of four kinds:

    barrier     a syncthreads or syncwarp is left out                   -> a race, or a value that nobody wrote
    store       a store to shared memory is left out                    -> a value that nobody wrote
    bound       a "<" that keeps an index within its array becomes "<=" -> an access outside of it
    endless     a counter of a loop no longer moves                     -> a loop that never ends

Every barrier is left out once; of the other kinds, up to two in each chapter. A process with the changed chapter runs
the operations that it serves, on small shapes and in a few orders of threads, until something is found. A line of JSON
for each bug says what. A bug that is not found stays in the list: some barriers are there for the reader, or for a
shape that is not among the small ones.
"""
import argparse
import re
import sys
from collections import Counter
from concurrent.futures import as_completed
from typing import NamedTuple

from numprec import kernels
from numprec.harness.measure import changed
from numprec.harness.record import ledger, streams
from numprec.harness.record.exits import Refused
from numprec.harness.show import contents

PROGRAM = "python -m numprec.harness.proofs.planted"
PRECISION, SEEDS, EACH = "fp32", 3, 2

KINDS = {
    "barrier": (re.compile(r"^(\s+)cuda\.sync(?:threads|warp)\(\)"), r"\1pass"),
    "store": (re.compile(r"^(\s+)\w+_s\[[^\]]*\] = (?!.*\bif\b).*"), r"\1pass"),
    "bound": (re.compile(r"^(\s+if (?:\w+|cuda\.grid\(1\)) )<( (?:n|N|M|\w+\.size|\w+\.shape\[\d\]):?.*)"), r"\1<=\2"),
    "endless": (re.compile(r"^(\s+)(?:half|distance|step|apart) (?://|\*|>>|<<)= \w+"), r"\1pass"),
}


class Bug(NamedTuple):
    chapter: str
    line: int
    kind: str
    text: str


def bugs():
    """All that are planted, in the order of chapters and lines."""
    found = []
    for chapter in kernels.chapters():
        if chapter in kernels.PARTS["start"]:
            continue                    # pages without an operation: nothing there has an oracle or sanitized problems
        lines, count = _lines(chapter), Counter()
        for number, line in enumerate(lines, 1):
            for kind, (pattern, _) in KINDS.items():
                if pattern.match(line) and (kind == "barrier" or count[kind] < EACH):
                    count[kind] += 1
                    found.append(Bug(chapter, number, kind, line.strip()))
    return found


def _lines(chapter):
    return contents.file_of(kernels.chapters()[chapter]).read_text(encoding="utf-8").splitlines()


def plant(bug):
    """Changes the chapter for this process, which must not have imported it."""
    pattern, change = KINDS[bug.kind]
    line = _lines(bug.chapter)[bug.line - 1]
    changed.change(bug.chapter, bug.line, pattern.sub(change, line, count=1))


def look_for(bug):
    """The first finding of the sanitizer in a kernel with the bug, or None."""
    plant(bug)
    from numprec.harness.measure import sanitizing
    from numprec.precision import PRECISIONS
    precision = PRECISIONS[PRECISION]
    for operation, rung in served(bug.chapter):
        if rung.supports(precision):
            found = sanitizing.findings(operation, rung, precision, SEEDS, rounds=changed.ROUNDS, first=True)
            if found:
                return found[0]
    return None


def served(chapter):
    """[(operation, rung)] that run the code of a chapter, an operation for each ladder: the chapter's own rungs, or,
    where it has device functions alone, those of the chapters that import it."""
    every = [(o, r) for o in kernels.operations().values() if o.ladder in (None, o.name) for r in o.rungs]
    having = {rung.chapter for _, rung in every}

    def serving(name):
        if name in having:
            return {name}
        return set().union(*(serving(other) for other in kernels.chapters() if name in contents.imported(other)))
    chapters = serving(chapter)
    return [(operation, rung) for operation, rung in every if rung.chapter in chapters]


def _look_for_all(todo, out):
    """{bug: its row} of those in the file `out`, once all of `todo` are there."""
    facts = {"sources": ledger.sources(), "seeds": SEEDS}
    with ledger.Ledger(out, Bug._fields, facts) as done, ledger.workers(max_tasks_per_child=1) as pool:
        left = {pool.submit(look_for, bug): bug for bug in todo if bug not in done.rows}
        for future in as_completed(left):
            bug, found = left[future], future.result()
            done.add(bug._asdict() | {"found": found})
            print(f"{bug.kind} {bug.chapter}.py:{bug.line}: {found or 'NOT FOUND'}", flush=True)
    return done.rows


def main(arguments=None):
    p = argparse.ArgumentParser(prog=PROGRAM, description=__doc__.splitlines()[0])
    p.add_argument("--out", default="runs/planted.jsonl",
                   help="a line for each bug; one that has its line, made from the same sources, is not planted again")
    p.add_argument("--chapter", help="only in this one")
    options = p.parse_args(arguments)
    todo = [b for b in bugs() if options.chapter in (None, b.chapter)]
    try:
        done = _look_for_all(todo, options.out)
    except Refused as refused:
        print(f"{PROGRAM}: {refused}", file=sys.stderr)
        return refused.code
    for kind in KINDS:
        results = [done[b]["found"] for b in todo if b.kind == kind]
        print(f"{kind}: {sum(r is not None for r in results)} of {len(results)} found")
    return 0


if __name__ == "__main__":
    sys.exit(streams.guarded(main, PROGRAM))

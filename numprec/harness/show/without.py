"""A chapter without one of its lines, a barrier for one, and what the sanitizer finds then: `--without TEXT`."""
import ast
import re
import textwrap

from numprec import kernels
from numprec.harness.measure import changed
from numprec.harness.record.exits import OK, Refused
from numprec.harness.show import contents
from numprec.harness.show.chapter import ROOT, operations_of, rungs_of

ORDERS = 3                      # random orders of threads in which the sanitizer looks, in addition to index order


def show(text, chapter, operation, rung, precision):
    """Leaves the line with a text out of the chapter, or of one that it builds on, in this process alone, which must
    not have imported it; prints what the sanitizer finds in the rungs that are asked for, or that hold the line. Raises
    Refused where no line, or more than one, holds the text, and where the chapter launches nothing."""
    changes, number, within = _line_with(text, rung, chapter)
    file = contents.file_of(kernels.chapters()[changes])
    kept = file.read_text(encoding="utf-8").splitlines()[number - 1]
    changed.change(changes, number, re.match(r"\s*", kept)[0] + "pass")
    from numprec.harness.measure import sanitizing
    rungs = rungs_of(operations_of(chapter, operation), rung)
    if any(r.name == within for _, r in rungs):
        rungs = [(o, r) for o, r in rungs if r.name == within]
    if not rungs:
        raise Refused(f"{chapter} launches nothing by itself: name a chapter that builds on it")
    print(f"{file.relative_to(ROOT).as_posix()} without its line {number}:\n\n{number:>7} {kept}\n\n"
          f"The sanitizer runs {chapter} in {precision}, the threads in {ORDERS + 1} orders:\n", flush=True)
    for operation, rung in rungs:
        if found := sanitizing.findings(operation, rung, precision, ORDERS, rounds=changed.ROUNDS, first=True):
            for sentence in found:
                print(textwrap.fill(sentence.partition("kernel ")[2], contents.WIDTH, initial_indent="  ",
                                    subsequent_indent="    ", break_long_words=False) + "\n")
            print("\n".join(_quoted(found)))
            return OK
    print("  nothing is wrong on the small shapes that it looks at")
    return OK


def _quoted(sentences):
    """The lines that findings name, file by file."""
    named = {}
    for sentence in sentences:
        places = re.findall(r"\bline (\d+)(?: of ([^\s:]+\.py))?", sentence)
        for number, file in places:
            named.setdefault(file or places[0][1], set()).add(int(number))
    for file, numbers in named.items():
        lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
        yield file
        yield from (f"{n:>7} {lines[n - 1]}" for n in sorted(numbers))


def _line_with(text, rung, chapter):
    """(chapter, line, function that holds it) of the one line of code with a text in it: in the factory `rung` where
    that is not None, else in the chapter, else in those that it imports, nearest first."""
    for name in (chapter, *reversed(contents.imported(chapter))):
        lines = contents.file_of(kernels.chapters()[name]).read_text(encoding="utf-8").splitlines()
        code = ast.parse("\n".join(lines)).body
        spans = {node.name: (node.lineno, node.end_lineno) for node in code if isinstance(node, ast.FunctionDef)}
        low, high = spans.get(rung, (0, 0)) if name == chapter else (0, 0)
        found = [n for n in range(low or code[1].lineno, (high or len(lines)) + 1) if text in lines[n - 1]]
        if len(found) == 1:
            return name, found[0], next((f for f, (first, last) in spans.items() if first <= found[0] <= last), None)
        if found:
            break
    raise Refused(f"{text!r} is in {len(found) or 'no'} lines of {chapter}: it has to be in one"
                  + "".join(f"\n{n:>7} {lines[n - 1]}" for n in found))

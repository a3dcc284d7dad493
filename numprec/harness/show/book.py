"""The command line of the book: `python -m numprec.kernels`."""
import argparse
import difflib
import inspect
import re
import sys
from pathlib import Path

from numprec import kernels
from numprec.harness.record.exits import OK, USAGE, Refused
from numprec.harness.show import chapter as chapters
from numprec.harness.show import contents
from numprec.harness.show.chapter import PROGRAM, ROOT
from numprec.precision import select


def _parser():
    p = argparse.ArgumentParser(prog=PROGRAM, formatter_class=argparse.RawDescriptionHelpFormatter,
                                description="Prints the contents of the book. With the name of a part, prints its "
                                            "title page; with that of a\nchapter or an operation, runs it on the "
                                            "emulator and prints what its rungs make a GPU do.",
                                epilog=f"examples\n  {PROGRAM} matmul --precision fp32,fp16\n  {PROGRAM} matmul "
                                       f"--source tiled\n  {PROGRAM} matmul --rung tiled --without 'both tiles are "
                                       "complete'\n\nexit codes: 0 all was well; 1 a result was wrong; 2 usage")
    p.add_argument("name", nargs="?", help="a part, a chapter, an operation, or a page of the part start")
    p.add_argument("--precision", default="fp32", metavar="LIST", help="names or groups; default fp32")
    p.add_argument("--shape", metavar="SHAPE", help="of the problem, such as 64x64x64")
    p.add_argument("--operation", metavar="NAME", help="only this operation of the chapter")
    p.add_argument("--rung", metavar="RUNG", help="only this rung")
    p.add_argument("--source", metavar="RUNG", help="print the source of a rung, and stop")
    p.add_argument("--without", metavar="TEXT",
                   help="leave out the line of the chapter that holds this text, a barrier for one, and sanitize")
    p.add_argument("--write", action="store_true",
                   help="bring the title pages' tables of ladders and README's reading order up to date")
    return p


def main(arguments=None):
    """The command line; returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        return _run(options)
    except (Refused, ValueError) as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return error.code if isinstance(error, Refused) else USAGE


def _run(options):
    if options.write:
        written = contents.update(ROOT)
        print("written: " + (", ".join(str(path.relative_to(ROOT)) for path in written) or "nothing"))
        return OK
    if options.name is None:
        print(f"{contents.text()}\n\n`{PROGRAM} matmul` runs a chapter, `--help` lists the options.")
        return OK
    chapter, only = _chapter(options.name)
    if chapter in kernels.PARTS:
        print(inspect.cleandoc(contents.docstring(contents.file_of(contents.part_module(chapter)))))
        return OK
    if options.without:
        if only:
            raise Refused(f"--without changes a chapter: name {chapter}, not {only}")
        from numprec.harness.show import without
        return without.show(options.without, chapter, options.operation, options.rung, select(options.precision)[0])
    if chapter in kernels.PARTS["start"]:
        return _start(chapter, only)
    operations = chapters.operations_of(chapter, options.operation or only)
    if not operations:
        return chapters.show_page(chapter)
    if options.source:
        return _source(operations, options.source)
    return chapters.show(chapter, operations, select(options.precision), options.shape, options.rung)


def _start(chapter, page):
    """Runs the pages of a chapter of the first part, or one of them; see numprec.kernels.start."""
    from numprec.kernels.start import __main__ as start
    return start.main([page] if page else [name for name, each in start.PAGES.items()
                                           if each.show.__module__ == kernels.chapters()[chapter]])


def _chapter(name):
    """(chapter, operation) of a name, which may also be a path or a dotted name; the operation is None but where the
    name is that of one, or of a page of the first part, and of no chapter. A part is returned in a chapter's place."""
    short = re.split(r"[./\\]", name.removesuffix(".py"))[-1]
    if short in kernels.chapters() or short in kernels.PARTS:
        return short, None
    from numprec.kernels.start.__main__ import PAGES
    if short in PAGES:
        return PAGES[short].show.__module__.rpartition(".")[2], short
    operations = kernels.operations()
    if short in operations:
        return operations[short].chapter, short
    known = [*kernels.PARTS, *kernels.chapters(), *PAGES, *operations]
    near = difflib.get_close_matches(short.lower(), known, n=1, cutoff=0.5)
    raise Refused(f"there is no chapter {name!r}." + (f" Did you mean {near[0]!r}?" if near else "")
                  + f" `{PROGRAM}` prints the contents.")


def _source(operations, name):
    for rung in dict.fromkeys(rung for _, rung in chapters.rungs_of(operations, name)):
        lines, first = inspect.getsourcelines(rung.factory)
        print(f"{Path(inspect.getsourcefile(rung.factory)).relative_to(ROOT)}, line {first}\n\n{''.join(lines)}")
    return OK

"""`python -m numprec.kernels` prints the contents of the book; with the name of a chapter, it runs that chapter.

Like `bench.py` this is a command line alone, which is why it may use the harness; the chapters may not.
"""
import sys

from numprec.harness.record.streams import guarded
from numprec.harness.show.book import PROGRAM, main

if __name__ == "__main__":
    sys.exit(guarded(main, PROGRAM))

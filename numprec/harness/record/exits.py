"""How bench.py ends: its exit codes, and the refusal of what cannot be done."""
import os

OK, FAILED, USAGE, NO_GPU, REGRESSION, NO_DATA, INTERRUPTED = 0, 1, 2, 3, 4, 5, 130


class Refused(Exception):
    """The run cannot start; the message is for the user, `code` for the shell."""

    def __init__(self, error, code=USAGE):
        super().__init__(str(error))
        self.code = code


def typed(path):
    """`path` as the reader will want to type it."""
    try:
        relative = os.path.relpath(path)
    except ValueError:      # on another drive of Windows
        return str(path)
    return str(path) if relative.startswith("..") else relative

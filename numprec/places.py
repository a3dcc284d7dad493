"""Where a user's files lie by the conventions of the system."""
import os
import sys
from pathlib import Path


def caches():
    """The folder in which the system keeps the user's caches, or None where there is none: no variable names it, and
    the user has no home.

    XDG Base Directory Specification: a value of XDG_CACHE_HOME that is empty or relative is ignored. A relative one
    would make a folder wherever the program is started, and take code from there. The same goes for Windows.
    """
    variable, below = ("LOCALAPPDATA", "AppData/Local") if sys.platform == "win32" else ("XDG_CACHE_HOME", ".cache")
    named = Path(os.environ.get(variable, ""))
    if named.is_absolute():
        return named
    try:
        return Path.home() / below
    except RuntimeError:               # neither HOME nor an entry in the system's list of users, as in containers
        return None

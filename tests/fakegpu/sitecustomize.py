"""Python imports this first where the folder is on PYTHONPATH: in what `run.py` starts, and in its children."""
import os

if "FAKEGPU_LIB" in os.environ:
    import stand_in    # noqa: F401

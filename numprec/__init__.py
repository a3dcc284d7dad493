"""numprec: five training algorithms in CUDA kernels written with Numba, each in every floating-point precision.

`import numprec` is quick: neither Numba nor scikit-learn is imported before an estimator is used.
"""
import importlib
import os
import sys

__version__ = "0.1.0"

_HOMES = {
    "CNNClassifier": "numprec.models.cnn",
    "DecisionTreeClassifier": "numprec.models.tree",
    "LinearRegression": "numprec.models.linear",
    "MLPClassifier": "numprec.models.mlp",
    "SVC": "numprec.models.svm",
    "PRECISIONS": "numprec.precision",
    "Format": "numprec.precision",
    "Precision": "numprec.precision",
    "precision_named": "numprec.precision",
}
__all__ = [*_HOMES, "__version__"]

if sys.platform == "darwin":
    raise ImportError("numprec cannot run on macOS, where NVIDIA's CUDA bindings cannot be installed: "
                      "use a Linux container (docker run -it python:3.12) or Google Colab.")
if os.environ.get("NUMBA_ENABLE_CUDASIM", "0") not in ("", "0"):
    raise ImportError("numprec needs no CUDA simulator, since its own emulator runs the kernels where there is no GPU: "
                      "unset NUMBA_ENABLE_CUDASIM.")


def __getattr__(name):
    """Imports an exported name when it is first used (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__():
    return sorted({*globals(), *_HOMES})

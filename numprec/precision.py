"""Number formats, and the precisions that assign a format to each role of a computation.

A `Format` is a way to write a number: float16, bfloat16, ... A `Precision` is a choice of formats:

    storage   what arrays in memory hold
    compute   the format to which the operands of a product that is summed are rounded: of a dot product, a matrix
              product, a convolution, a kernel function. It matters where it is coarser than storage
    accum     products and running sums: accum(a) * accum(b), in every kernel alike
    master    the copy of the weights that an optimizer updates (training in mixed precision)
    loss_scale  None, "static" or "dynamic"

Both are plain data. This is the only file that names float16, float32, float64, ...; a new precision is one row
in the table below and no edit to any kernel.

Sources
    IEEE Std 754-2019, section 3.6 (interchange formats).
    N. J. Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., SIAM 2002, section 2.1 (u, eta).
    P. Micikevicius et al., Mixed Precision Training, ICLR 2018 (accum, master, loss_scale).
"""
import difflib
from dataclasses import dataclass, field, fields
from functools import lru_cache

import numpy as np

__all__ = ["FORMATS", "PRECISIONS", "Format", "Precision", "format_named", "precision_named", "select"]


@dataclass(frozen=True)
class Format:
    """A binary floating-point format.

    `significand` counts the bits of the significand with its hidden bit (24 for float32). Inside a kernel a
    Format is both an element type, `cuda.shared.array(n, storage)`, and a conversion, `storage(acc)`; see
    `numprec.language.formats`. A bfloat16 element is held as its 16 bits, in a uint16.
    """

    name: str
    significand: int
    exponent: int
    short: str

    def __repr__(self):
        return self.name

    @property
    def bits(self):
        """Width in bits."""
        return self.significand + self.exponent

    @property
    def bytes(self):
        """Width in bytes."""
        return self.bits // 8

    @property
    def u(self):
        """Unit roundoff: half the distance from 1 to the next larger number (Higham, section 2.1)."""
        return 2.0 ** -self.significand

    @property
    def max(self):
        """Largest finite number."""
        return (2 - 2.0 ** (1 - self.significand)) * 2.0 ** (2 ** (self.exponent - 1) - 1)

    @property
    def tiny(self):
        """Smallest normal number."""
        return 2.0 ** (2 - 2 ** (self.exponent - 1))

    @property
    def eta(self):
        """Smallest subnormal number; half of it bounds the error of a rounding that underflows."""
        return self.tiny * 2.0 ** (1 - self.significand)

    @property
    def numpy(self):
        """dtype of host arrays; bfloat16 is that of ml_dtypes."""
        if self.name == "bfloat16":
            import ml_dtypes
            return np.dtype(ml_dtypes.bfloat16)
        return np.dtype(self.name)

    @property
    def element(self):
        """dtype of the elements that a kernel loads and stores: the bits as uint16 for bfloat16."""
        return np.dtype(np.uint16) if self.name == "bfloat16" else np.dtype(self.name)

    def round(self, values):
        """`values` rounded to this format, to nearest even; values beyond its range become infinite.

        Returns a new host array (dtype `numpy`). Every source is rounded once: formats up to float64, and integers
        up to 2**53.
        """
        with np.errstate(all="ignore"):
            values = np.asarray(values)
            if self.name == "bfloat16" and values.dtype.itemsize > 2:
                return _round_once_to_bfloat16(values.astype(np.float64))
            return np.array(values, dtype=self.numpy)

    def holds(self, other):
        """Whether every number of the format `other` is one of this format."""
        return self.significand >= other.significand and self.exponent >= other.exponent

    def wider(self):
        """The format one step up, for residuals: halves -> float32 -> float64; float64 is its own."""
        return FORMATS["float32"] if self.bits < 32 else FORMATS["float64"]


def _round_once_to_bfloat16(values):
    """float64 -> bfloat16 with one rounding: through float32 *rounded to odd*, which loses no information.

    ml_dtypes rounds twice, to float32 and then to bfloat16. S. Boldo and G. Melquiond, Emulation of a FMA and
    correctly rounded sums: proved algorithms using rounding to odd, IEEE Trans. Computers 57(4), 2008.
    """
    narrow = values.astype(np.float32)
    back = narrow.astype(np.float64)
    inexact = (back != values) & np.isfinite(narrow)
    bits = narrow.view(np.uint32) if narrow.ndim else narrow.reshape(1).view(np.uint32).reshape(())
    too_far = inexact & (np.abs(back) > np.abs(values))
    bits = np.where(too_far, bits - np.uint32(1), bits)        # truncate toward zero ...
    bits = np.where(inexact, bits | np.uint32(1), bits)        # ... and remember what was cut off in the last bit
    odd = np.asarray(bits, np.uint32).view(np.float32)
    return odd.astype(FORMATS["bfloat16"].numpy)


FORMATS = {f.name: f for f in (
    Format("float64", significand=53, exponent=11, short="f64"),
    Format("float32", significand=24, exponent=8, short="f32"),
    Format("float16", significand=11, exponent=5, short="f16"),
    Format("bfloat16", significand=8, exponent=8, short="bf16"),
)}
_FORMAT_ALIASES = {f.short: f for f in FORMATS.values()} | {
    "half": FORMATS["float16"], "single": FORMATS["float32"], "double": FORMATS["float64"]}


@dataclass(frozen=True)
class Precision:
    """Formats by role; see the module's docstring. `str(p)` names it, and `precision_named(str(p)) == p`.

    Two precisions are equal when their roles are, whatever they are called.
    """

    name: str = field(compare=False)
    storage: Format
    compute: Format
    accum: Format
    master: Format | None = None
    loss_scale: str | None = None

    def __post_init__(self):
        if self.loss_scale not in (None, "static", "dynamic"):
            raise ValueError(f"loss_scale is None, 'static' or 'dynamic', not {self.loss_scale!r}")
        if not self.accum.holds(self.compute):
            raise ValueError(f"accum ({self.accum}) must hold every value of compute ({self.compute})")

    def __str__(self):
        return self.name if PRECISIONS.get(self.name) == self else self.roles

    @property
    def roles(self):
        """The long form, `storage=float16,compute=float16,accum=float32`."""
        pairs = ((f.name, getattr(self, f.name)) for f in fields(self) if f.name != "name")
        return ",".join(f"{role}={value}" for role, value in pairs if value is not None)

    @property
    def formats(self):
        """The distinct formats in use, storage first."""
        used = (self.storage, self.compute, self.accum, self.master)
        return tuple(dict.fromkeys(f for f in used if f is not None))

    @property
    def u(self):
        """Unit roundoff of the coarsest of storage, compute and accum: what a result can be trusted to."""
        return max(self.storage.u, self.compute.u, self.accum.u)


def _table(*rows):
    return {name: Precision(name, *(FORMATS[r] for r in roles), *training) for name, roles, *training in rows}


PRECISIONS = _table(
    ("fp64", ("float64", "float64", "float64")),
    ("fp32", ("float32", "float32", "float32")),
    ("fp16", ("float16", "float16", "float16")),
    ("mixed_fp16", ("float16", "float16", "float32"), FORMATS["float32"], "dynamic"),
    ("mixed_bf16", ("bfloat16", "bfloat16", "float32"), FORMATS["float32"], None),
)


def cheapest(suits):
    """The first of PRECISIONS for which suits(precision) holds, or None: the one of fewest bytes a stored number; of
    several, the most accurate."""
    return min(filter(suits, PRECISIONS.values()), key=lambda p: (p.storage.bytes, p.u), default=None)


ALIASES = {
    "double": "fp64", "float64": "fp64", "f64": "fp64", "64": "fp64", "64-true": "fp64",
    "single": "fp32", "float32": "fp32", "f32": "fp32", "32": "fp32", "32-true": "fp32", "full": "fp32",
    "half": "fp16", "float16": "fp16", "f16": "fp16", "16": "fp16", "16-true": "fp16",
    "mixed_float16": "mixed_fp16", "mixed_f16": "mixed_fp16", "16-mixed": "mixed_fp16",
    "mixed_bfloat16": "mixed_bf16", "bf16-mixed": "mixed_bf16",
}

GROUPS = {
    "all": tuple(PRECISIONS),
    "core": ("fp64", "fp32", "fp16"),
    "mixed": tuple(name for name in PRECISIONS if name.startswith("mixed_")),
}


# names that no precision has, and the precision that whoever gives them is after
MEANT = {"bf16": "mixed_bf16", "bfloat16": "mixed_bf16"}


def unknown(kind, name, known, aliases=(), widths=False, meant=()):
    """The ValueError for a `name` that is not `known`, with the nearest one that is. `aliases` would be understood
    too, but are not listed; `meant` is {a name that is not: the one that is}. With `widths`, numbers in names count
    bits, and one of another length is not near: fp8 is no slip for fp64."""
    wanted, meant = str(name).strip().lower(), dict(meant)
    near = [c for c in (*known, *aliases, *meant) if not (
        widths and _digits(c) and _digits(wanted) and _digits(c) != _digits(wanted))]
    guess = difflib.get_close_matches(wanted, near, n=1, cutoff=0.5)
    hint = f" Did you mean {meant.get(guess[0], guess[0])!r}?" if guess else ""
    return ValueError(f"unknown {kind} {name!r}.{hint} Known: {', '.join(known)}.")


def _digits(name):
    return sum(map(str.isdigit, name))


def format_named(name):
    """The Format called `name` ("float16", "f16", "half"). Raises ValueError with the nearest name."""
    name = str(name).strip().lower()
    if name in FORMATS:
        return FORMATS[name]
    if name in _FORMAT_ALIASES:
        return _FORMAT_ALIASES[name]
    raise unknown("format", name, list(FORMATS), _FORMAT_ALIASES, widths=True)


@lru_cache(maxsize=None)
def _parse(name):
    key = name.strip().lower()
    key = ALIASES.get(key, key)
    if key in PRECISIONS:
        return PRECISIONS[key]
    if "=" not in key:
        raise unknown("precision", name, list(PRECISIONS), ALIASES, widths=True, meant=MEANT)
    known = [f.name for f in fields(Precision) if f.name != "name"]
    roles = {}
    for part in key.split(","):
        role, _, value = part.partition("=")
        role = role.strip()
        if role not in known:
            raise unknown("role", role, known)
        if role in roles:
            raise ValueError(f"precision {name!r} gives {role!r} twice")
        roles[role] = value.strip() if role == "loss_scale" else format_named(value)
    missing = [role for role in ("storage", "compute", "accum") if role not in roles]
    if missing:
        raise ValueError(f"precision {name!r} does not say {', '.join(missing)}")
    custom = Precision("custom", **roles)
    same = [p for p in PRECISIONS.values() if p.roles == custom.roles]
    return same[0] if same else custom


def precision_named(name):
    """The Precision for a name, an alias ("half", "float32", "16-mixed"), the long form of `Precision.roles`, or
    a Precision itself. Raises ValueError with the nearest known name."""
    return name if isinstance(name, Precision) else _parse(str(name))


def select(names, available=None):
    """Precisions for a comma-separated list of names and groups ("all", "core", "mixed", "native"), each once.

    The long form holds commas, so it stands alone. `available(precision)` tells whether the device has it
    natively; only "native" asks.
    """
    if "=" in names:
        return [precision_named(names)]
    chosen = []
    for name in (part.strip() for part in names.split(",")):
        if name.lower() == "native":
            if available is None:
                raise ValueError("the group 'native' needs a device to ask")
            chosen += [p for p in PRECISIONS.values() if available(p)]
        elif name.lower() in GROUPS:
            chosen += [PRECISIONS[n] for n in GROUPS[name.lower()]]
        else:
            try:
                chosen.append(precision_named(name))
            except ValueError:
                raise unknown("precision", name, [*PRECISIONS, *GROUPS, "native"], ALIASES, widths=True,
                              meant=MEANT) from None
    return list(dict.fromkeys(chosen))

"""Names, roles and rounding. Rounding is checked against exact rational arithmetic."""
import math
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest

from numprec.precision import (ALIASES, FORMATS, GROUPS, PRECISIONS, Format, Precision, format_named, precision_named,
                               select)

FMT = pytest.mark.parametrize("fmt", FORMATS.values(), ids=str)


# ---- formats

@FMT
def test_constants(fmt):
    info = (ml_dtypes if fmt.name == "bfloat16" else np).finfo(fmt.numpy)
    assert fmt.u == float(info.eps) / 2
    assert fmt.max == float(info.max)
    assert fmt.tiny == float(info.tiny)
    assert fmt.eta == float(info.smallest_subnormal)
    assert fmt.bits == info.bits == 8 * fmt.bytes == 8 * fmt.numpy.itemsize == 8 * fmt.element.itemsize


def test_elements():
    assert FORMATS["bfloat16"].element == np.uint16
    assert all(f.element == f.numpy for f in FORMATS.values() if f.name != "bfloat16")


def test_wider():
    assert {f.name: f.wider().name for f in FORMATS.values()} == {
        "float16": "float32", "bfloat16": "float32", "float32": "float64", "float64": "float64"}


@pytest.mark.parametrize("name, full", [
    ("float16", "float16"), ("f16", "float16"), ("half", "float16"), ("Half", "float16"), ("bfloat16", "bfloat16"),
    ("bf16", "bfloat16"), ("f32", "float32"), (" single ", "float32"), ("double", "float64"), ("f64", "float64")])
def test_format_names(name, full):
    assert format_named(name) is FORMATS[full]
    assert format_named(FORMATS[full]) is FORMATS[full]
    assert repr(FORMATS[full]) == str(FORMATS[full]) == full


def test_unknown_format():
    with pytest.raises(ValueError, match="Did you mean 'bfloat16'"):
        format_named("bfloat61")


def exactly(x, fmt):
    """`x`, a Fraction, rounded to nearest even in `fmt` by the definition of IEEE 754; a Fraction or an infinity."""
    if x == 0:
        return 0
    magnitude = abs(x)
    e = magnitude.numerator.bit_length() - magnitude.denominator.bit_length()
    if Fraction(2) ** e > magnitude:
        e -= 1                                       # 2**e <= magnitude < 2**(e + 1)
    least = int(math.log2(fmt.tiny))
    quantum = Fraction(2) ** (max(e, least) - fmt.significand + 1)
    rounded = round(magnitude / quantum) * quantum   # Python rounds a Fraction to nearest even
    rounded = math.inf if rounded > fmt.max else rounded
    return rounded if x > 0 else -rounded


def neighbourhood(fmt, rng):
    """float64 values around numbers of `fmt`, midpoints between them, and the edges of its range."""
    scale = 2.0 ** rng.integers(-30, 30, 300)
    if fmt.name == "float64":
        return rng.standard_normal(300) * scale
    number = fmt.round(rng.standard_normal(300) * scale).astype(np.float64)
    number = number[np.isfinite(number)]
    gap = np.exp2(np.floor(np.log2(np.abs(number) + fmt.tiny))) * fmt.u
    middle = number + gap
    edges = np.array([fmt.max, fmt.max * (1 + fmt.u), fmt.max * (1 + fmt.u / 2), fmt.max * (1 + 2 * fmt.u), fmt.tiny,
                      fmt.tiny * (1 - fmt.u), fmt.eta, fmt.eta / 2, fmt.eta * 0.75, fmt.eta * 1.5, fmt.eta * 2.5,
                      fmt.eta / 2 * (1 + 2.0 ** -52), 5e-324, 1.7e308, 0.0])
    values = np.concatenate([number, middle, np.nextafter(middle, 0), np.nextafter(middle, np.inf), edges,
                             middle * (1 + 2.0 ** -40), middle * (1 - 2.0 ** -30), rng.standard_normal(300) * scale])
    return np.concatenate([values, -values])


@FMT
def test_rounds_once_to_nearest_even(fmt):
    values = neighbourhood(fmt, np.random.default_rng(7))
    rounded = fmt.round(values)
    assert rounded.dtype == fmt.numpy
    for value, got in zip(values, rounded.astype(np.float64)):
        expected = exactly(Fraction(value), fmt)
        assert got == expected, (value, got, float(expected))
        assert np.signbit(got) == np.signbit(value)


def test_bfloat16_does_not_round_twice():
    """1 + 2**-8 + 2**-40 lies above the middle of 1 and 1 + 2**-7; by way of float32 it becomes the middle itself."""
    bf16, value = FORMATS["bfloat16"], 1 + 2.0 ** -8 + 2.0 ** -40
    twice = np.float64(value).astype(np.float32).astype(bf16.numpy)
    assert float(twice) == 1.0
    assert float(bf16.round(value)) == 1 + 2.0 ** -7


def test_bfloat16_of_large_integers():
    value = (1 << 40) + (1 << 32) + 1
    assert int(FORMATS["bfloat16"].round([value])[0]) == (1 << 40) + (1 << 33)
    assert int(FORMATS["bfloat16"].round(-value)) == -(1 << 40) - (1 << 33)


@pytest.mark.parametrize("source", [np.float16, np.float32, ml_dtypes.bfloat16, np.int32, np.uint8, bool])
@FMT
def test_other_sources(fmt, source):
    values = np.arange(-60, 60).astype(source)
    np.testing.assert_array_equal(fmt.round(values).astype(np.float64), values.astype(np.float64))


@FMT
def test_special_values(fmt):
    beyond = 1e308 if fmt.bits < 64 else math.inf
    with np.errstate(all="raise"):
        got = fmt.round([math.inf, -math.inf, math.nan, -0.0, beyond, 1e-320]).astype(float)
    assert got[0] == math.inf and got[1] == -math.inf and math.isnan(got[2]) and got[4] == math.inf
    assert got[3] == 0 and np.signbit(got[3])
    for shape in ((), (0,), (2, 3)):
        rounded = fmt.round(np.ones(shape))
        assert rounded.shape == shape and rounded.dtype == fmt.numpy


@FMT
def test_round_gives_a_new_array(fmt):
    values = np.ones(3, fmt.numpy)
    rounded = fmt.round(values)
    rounded[0] = 2
    assert values[0] == 1


# ---- precisions

@pytest.mark.parametrize("alias, name", ALIASES.items())
def test_aliases(alias, name):
    assert precision_named(alias) is PRECISIONS[name]
    assert precision_named(f" {alias.upper()} ") is PRECISIONS[name]


@pytest.mark.parametrize("alias, name", [
    ("half", "fp16"), ("single", "fp32"), ("double", "fp64"), ("float16", "fp16"), ("float32", "fp32"),
    ("float64", "fp64"), ("f16", "fp16"), ("f32", "fp32"), ("f64", "fp64"), (16, "fp16"), (32, "fp32"), (64, "fp64"),
    ("mixed_float16", "mixed_fp16"), ("mixed_bfloat16", "mixed_bf16"), ("16-mixed", "mixed_fp16"),
    ("bf16-mixed", "mixed_bf16"), ("64-true", "fp64"), ("32-true", "fp32"), ("16-true", "fp16")])
def test_names_that_users_know(alias, name):
    """NumPy's, PyTorch's, Keras's and Lightning's."""
    assert precision_named(alias).name == name


def test_the_table():
    rows = {p.name: (p.storage.name, p.compute.name, p.accum.name, p.master and p.master.name, p.loss_scale)
            for p in PRECISIONS.values()}
    assert rows == {
        "fp64": ("float64", "float64", "float64", None, None),
        "fp32": ("float32", "float32", "float32", None, None),
        "fp16": ("float16", "float16", "float16", None, None),
        "mixed_fp16": ("float16", "float16", "float32", "float32", "dynamic"),
        "mixed_bf16": ("bfloat16", "bfloat16", "float32", "float32", None),
    }


def test_text_names_the_precision(precision):
    assert precision_named(precision) is precision
    assert precision_named(str(precision)) is precision
    assert precision_named(precision.roles) is precision
    assert precision_named(precision.roles.upper().replace(",", " , ")) is precision
    assert select(str(precision)) == select(precision.roles) == [precision]


CUSTOM = [
    ("storage=float16,compute=float16,accum=float64", None),
    ("storage=float16,compute=float32,accum=float32", None),
    ("storage=bfloat16,compute=bfloat16,accum=float32", None),
    ("storage=float32,compute=float32,accum=float32,master=float64,loss_scale=static", None),
    ("storage=f16,compute=half,accum=single", "storage=float16,compute=float16,accum=float32"),
    ("accum=f64,storage=f32,compute=f32", "storage=float32,compute=float32,accum=float64"),
]


@pytest.mark.parametrize("text, canonical", CUSTOM)
def test_long_form(text, canonical):
    p = precision_named(text)
    assert str(p) == p.roles == (canonical or text)
    assert precision_named(str(p)) == p
    assert select(text) == [p]
    assert hash(p) == hash(precision_named(str(p)))


def test_a_name_of_ones_own():
    """A precision is its roles: a private name neither gets in the way of `str` nor of equality."""
    half, single = FORMATS["float16"], FORMATS["float32"]
    mine = Precision("mine", half, half, single)
    assert str(mine) == "storage=float16,compute=float16,accum=float32"
    assert precision_named(str(mine)) == mine
    borrowed = Precision("fp32", half, half, single)
    assert str(borrowed) == str(mine) and borrowed != PRECISIONS["fp32"]
    again = Precision("again", single, single, single)
    assert again == PRECISIONS["fp32"] == precision_named(str(again)) and hash(again) == hash(PRECISIONS["fp32"])


@pytest.mark.parametrize("text, says", [
    ("fp_16", "Did you mean 'fp16'"),
    ("mixed-fp16", "Did you mean 'mixed_fp16'"),
    ("mixed_bf61", "Did you mean 'mixed_bf16'"),
    ("dubble", "Did you mean 'double'"),
    ("haff", "Did you mean 'half'"),
    ("bf16", "Did you mean 'mixed_bf16'"),
    ("BFloat16", "Did you mean 'mixed_bf16'"),
    ("fp8", "unknown precision 'fp8'. Known: fp64,"),      # no slip for fp64
    ("storage=float8,compute=float16,accum=float16", "unknown format 'float8'. Known: float64,"),
    ("quadruple", "Known: fp64, fp32, fp16, mixed_fp16, mixed_bf16"),
    ("", "unknown precision ''"),
    ("storage=float16,compute=float16", "does not say accum"),
    ("storage=float16,compute=float16,acum=float16", "unknown role 'acum'. Did you mean 'accum'"),
    ("storage=flaot16,compute=float16,accum=float16", "Did you mean 'float16'"),
    ("storage=float16,compute=float16,accum=float16,loss_scale=huge", "'static' or 'dynamic'"),
    ("storage=float16,compute=float16,accum=float16,accum=float32", "'accum' twice"),
    ("storage=float64,compute=float64,accum=float32", "must hold every value"),
    ("storage=float16,compute=float16,accum=bfloat16", "must hold every value"),
    ("storage=bfloat16,compute=bfloat16,accum=float16", "must hold every value"),
])
def test_what_is_wrong_is_said(text, says):
    with pytest.raises(ValueError) as error:
        precision_named(text)
    assert says in str(error.value)


def test_groups():
    names = {group: [p.name for p in select(group)] for group in GROUPS}
    assert names == {"all": list(PRECISIONS), "core": ["fp64", "fp32", "fp16"], "mixed": ["mixed_fp16", "mixed_bf16"]}
    assert [p.name for p in select("core, half, mixed,FP16")] == [*names["core"], *names["mixed"]]
    assert [p.name for p in select("native", available=lambda p: p.name == "fp32")] == ["fp32"]
    with pytest.raises(ValueError, match="needs a device"):
        select("native")
    with pytest.raises(ValueError, match="Did you mean 'core'"):
        select("fp16,cores")
    with pytest.raises(ValueError, match="Did you mean 'mixed_bf16'"):
        select("fp16,bf16")
    with pytest.raises(ValueError, match="unknown precision"):
        select("fp16,,fp32")


def test_formats_and_roundoff():
    assert [f.name for f in PRECISIONS["mixed_bf16"].formats] == ["bfloat16", "float32"]
    assert PRECISIONS["mixed_bf16"].u == 2.0 ** -8 and PRECISIONS["mixed_fp16"].u == 2.0 ** -11
    assert PRECISIONS["fp64"].u == 2.0 ** -53


def test_a_precision_is_data():
    with pytest.raises(AttributeError):
        PRECISIONS["fp16"].accum = FORMATS["float32"]
    with pytest.raises(AttributeError):
        FORMATS["float16"].significand = 12
    assert Format("float16", 11, 5, "f16") == FORMATS["float16"]

"""The two 16-bit formats, float16 and bfloat16: their arithmetic, and Numba's functions of them.

Arithmetic is done in a wider format and rounded *once*; the proofs stand where it is done. It never uses the host's own
half arithmetic, which rounds twice without AVX512-FP16 and fuses with it. A NaN that an operation or conversion makes
of 16 bits is 0x7fff in both formats, as on a GPU [1].

Sources
    [1] PTX ISA, sections "Floating Point Instructions", "Half Precision Floating Point Instructions", "cvt".
    [2] S. A. Figueroa, When is double rounding innocuous?, ACM SIGNUM Newsletter 30(3), 1995.
    [3] S. Boldo and G. Melquiond, Emulation of a FMA and correctly rounded sums: proved algorithms using rounding to
        odd, IEEE Trans. Computers 57(4), 2008.
"""
import re
from importlib import resources

from numprec.emulator.ir import PURE, SUFFIX, function

# ---- arithmetic

# One rounding for + - * /: a double holds the sum and product of two halves exactly, and its 53 bits are more than the
# 2 * 11 + 2 that make the second rounding of a quotient innocuous [2]; for bfloat16, sums may be inexact in a double,
# where 53 >= 2 * 8 + 2 serves. A product or quotient of bfloat16 needs the range of a double as well.
BINARY = """
define internal i16 @emu.{fmt}.{name}(i16 %a, i16 %b) alwaysinline {{
  %x = call double @emu.{fmt}.to_f64(i16 %a)
  %y = call double @emu.{fmt}.to_f64(i16 %b)
  %z = {op} double %x, %y
  %r = call i16 @emu.{fmt}.from_f64(double %z)
  ret i16 %r
}}
"""

_WIDE = """
define internal double @emu.half.{name}.wide(double %x, double %y) alwaysinline {{
  %z = {op} double %x, %y
  %r = call double @emu.half.round(double %z)
  ret double %r
}}
"""

_PACKED = """
define internal i32 @emu.half2.{name}(i32 %a, i32 %b) alwaysinline {{
  %a0 = trunc i32 %a to i16
  %b0 = trunc i32 %b to i16
  %r0 = call i16 @emu.half.{name}(i16 %a0, i16 %b0)
  %as = lshr i32 %a, 16
  %bs = lshr i32 %b, 16
  %a1 = trunc i32 %as to i16
  %b1 = trunc i32 %bs to i16
  %r1 = call i16 @emu.half.{name}(i16 %a1, i16 %b1)
  %w0 = zext i16 %r0 to i32
  %w1 = zext i16 %r1 to i32
  %h1 = shl i32 %w1, 16
  %r = or i32 %h1, %w0
  ret i32 %r
}}
"""

ARITHMETIC = ("add", "sub", "mul", "div")


def arithmetic(hardware):
    """The arithmetic of the 16-bit formats. `hardware`: the target converts half to float and back (F16C, Arm)."""
    files = "half_hardware.ll" if hardware else "half_software.ll", "halves.ll"
    texts = [resources.files("numprec.emulator").joinpath(name).read_text() for name in files]
    binary = [BINARY.format(fmt=fmt, name=name, op="f" + name) for fmt in ("half", "bf16") for name in ARITHMETIC]
    binary += [_WIDE.format(name=name, op="f" + name) for name in ARITHMETIC]
    packed = [_PACKED.format(name=name) for name in ("add", "sub", "mul")]
    return "".join([*texts, *binary, *packed])


# the primitives above, as the first pass sees them: without bodies, so that products can still be fused with sums
PRIMITIVES = "\n".join(
    f"declare {ret} @emu.{name}({args}) {PURE}" for name, ret, args in [
        *((f"{fmt}.{op}{form}", "i16", "i16, i16")
          for fmt in ("half", "bf16") for op in ARITHMETIC for form in ("", ".rn")),
        *((f"{fmt}.fma", "i16", "i16, i16, i16") for fmt in ("half", "bf16")),
        *((f"{fmt}.neg", "i16", "i16") for fmt in ("half", "bf16")),
        *((f"{fmt}.to_f32", "float", "i16") for fmt in ("half", "bf16")),
        *((f"{fmt}.to_f64", "double", "i16") for fmt in ("half", "bf16")),
        *((f"{fmt}.from_f32", "i16", "float") for fmt in ("half", "bf16")),
        *((f"{fmt}.from_f64", "i16", "double") for fmt in ("half", "bf16")),
        ("half2.fma", "i32", "i32, i32, i32"),
        *((f"half2.{op}", "i32", "i32, i32") for op in ("add", "sub", "mul")),
    ]) + "\n"


# ---- Numba's shims for float16 and bfloat16; they take and return through pointers, and return a status of 0

_FORMATS = {"6__half": "half", "13__nv_bfloat16": "bf16"}
_OPERATORS = {"pl": "add", "mi": "sub", "ml": "mul", "dv": "div"}
_COMPARISONS = {"eq": "oeq", "ne": "une", "lt": "olt", "le": "ole", "gt": "ogt", "ge": "oge"}
_UNARY_MATH = {"hceil": "ceil", "hfloor": "floor", "htrunc": "trunc", "hrint": "rint", "hsqrt": "sqrt", "hexp": "exp",
               "hexp2": "exp2", "hexp10": "exp10", "hlog": "log", "hlog2": "log2", "hlog10": "log10", "hsin": "sin",
               "hcos": "cos"}
_CXX = {"f": "float", "d": "double", "i": "i32", "j": "i32", "s": "i16", "t": "i16", "x": "i64", "y": "i64",
        "l": "i64", "m": "i64"}
_UNSIGNED = "jtym"
INTEGERS = {"char": ("i8", "s"), "uchar": ("i8", "u"), "short": ("i16", "s"), "ushort": ("i16", "u"),
            "int": ("i32", "s"), "uint": ("i32", "u"), "ll": ("i64", "s"), "ull": ("i64", "u")}
DIRECTED = {"rn": "roundeven", "rz": "trunc", "rd": "floor", "ru": "ceil"}


def to_integer(fmt, word, signed, rounding):
    """Lines for %r = the half or bfloat16 %x as an integer, saturated as cvt does."""
    kind = "fptosi" if signed == "s" else "fptoui"
    return [f"%f = call double @emu.{fmt}.to_f64(i16 %x)",
            f"%g = call double @llvm.{DIRECTED[rounding]}.f64(double %f)",
            f"%r = call {word} @llvm.{kind}.sat.{word}.f64(double %g)"]


def from_integer(fmt, word, signed):
    """Lines for %r = the integer %x, rounded to nearest. Beyond 2^53 a double is inexact, and float16 infinite; for
    bfloat16 the double is wide enough for the second rounding to be innocuous unless it lands on a tie, which the
    sticky bit of a 64-bit integer's lower half prevents."""
    kind = "sitofp" if signed == "s" else "uitofp"
    if word == "i64":
        return ["%low = and i64 %x, 2047", "%some = icmp ne i64 %low, 0", "%bit = select i1 %some, i64 2048, i64 0",
                "%high = and i64 %x, -2048", "%y0 = or i64 %high, %bit", "%big0 = ashr i64 %x, 52",
                "%big1 = add i64 %big0, 1", "%small = icmp ult i64 %big1, 2", "%y = select i1 %small, i64 %x, i64 %y0",
                f"%d = {kind} i64 %y to double", f"%r = call i16 @emu.{fmt}.from_f64(double %d)"]
    return [f"%d = {kind} {word} %x to double", f"%r = call i16 @emu.{fmt}.from_f64(double %d)"]


def shim(name, args):
    """Twin of a mangled shim, or None. args[0] is the pointer to the result, the others point to operands."""
    count = len(args) - 1
    conversion = re.fullmatch(r"_+nv_bfloat16__ZNK13__nv_bfloat16cv(\w)Ev(_\d+)?", name) or \
        re.fullmatch(r"_+half__ZNK6__halfcv(\w)Ev(_\d+)?", name)
    if conversion:
        fmt = "bf16" if "bfloat16" in name else "half"
        return _shim_body(name, args, _converted_to(fmt, _CXX.get(conversion[1]), conversion[1]))
    if not name.endswith("_nbst"):
        return None

    constructor = re.fullmatch(r"_ZN(6__half|13__nv_bfloat16)C1E(\w)_nbst", name)
    if constructor:
        fmt, source = _FORMATS[constructor[1]], constructor[2]
        word = _CXX.get(source)
        if word is None:
            return None
        # self is the pointer args[1]; the result word args[0] is not used
        lines = [f"%x = load {word}, ptr %a2"] + _converted_from(fmt, word, source)
        return function(name, "i32", args, *lines, "store i16 %r, ptr %a1", "ret i32 0")

    operator = re.fullmatch(r"_Z(pl|mi|ml|dv|ng|ps|eq|ne|lt|le|gt|ge)RK(6__half|13__nv_bfloat16)(S1_)?_nbst", name)
    if operator:
        op, fmt = operator[1], _FORMATS[operator[2]]
        if op in _OPERATORS:
            return _shim_body(name, args, _loads(count) + [
                f"%r = call i16 @emu.{fmt}.{_OPERATORS[op]}(i16 %x, i16 %y)"] + ["store i16 %r, ptr %a0"])
        if op == "ng":
            return _shim_body(name, args, _loads(1) + [f"%r = call i16 @emu.{fmt}.neg(i16 %x)",
                                                       "store i16 %r, ptr %a0"])
        if op == "ps":
            return _shim_body(name, args, _loads(1) + ["store i16 %x, ptr %a0"])
        return _shim_body(name, args, _loads(2) + _compared(fmt, _COMPARISONS[op]))

    called = re.fullmatch(r"_ZL\d+_*([a-z][a-z0-9_]*?)(6__half|13__nv_bfloat16)(S_)*_nbst", name)
    if called:
        return _shim_function(name, args, called[1], _FORMATS[called[2]])
    # conversions named for what they convert: __float2half_rn f, __int2bfloat16_rz i, ...
    into = re.fullmatch(r"_ZL\d+__(float|double|char|uchar|short|ushort|int|uint|ll|ull)(2|_as_)(half|bfloat16)"
                        r"(_rn)?([a-z])_nbst", name)
    if into:
        fmt = "bf16" if into[3] == "bfloat16" else "half"
        word = _CXX.get(into[5])
        if into[2] == "_as_":
            return _shim_body(name, args, ["%x = load i16, ptr %a1", "store i16 %x, ptr %a0"])
        return _shim_body(name, args, [f"%x = load {word}, ptr %a1"] + _converted_from(fmt, word, into[5])
                          + ["store i16 %r, ptr %a0"])
    return None


def _shim_body(name, args, lines):
    return None if lines is None else function(name, "i32", args, *lines, "ret i32 0")


def _loads(count):
    return [f"%{'xyz'[i]} = load i16, ptr %a{i + 1}" for i in range(count)]


def _compared(fmt, condition):
    return [f"%p = call float @emu.{fmt}.to_f32(i16 %x)", f"%q = call float @emu.{fmt}.to_f32(i16 %y)",
            f"%t = fcmp {condition} float %p, %q", "%r = zext i1 %t to i8", "store i8 %r, ptr %a0"]


def _converted_from(fmt, word, code):
    if word in ("float", "double"):
        return [f"%r = call i16 @emu.{fmt}.from_{SUFFIX[word]}({word} %x)"]
    return from_integer(fmt, word, "u" if code in _UNSIGNED else "s")


def _converted_to(fmt, word, code):
    load = ["%x = load i16, ptr %a1"]
    if word in ("float", "double"):
        return load + [f"%r = call {word} @emu.{fmt}.to_{SUFFIX[word]}(i16 %x)", f"store {word} %r, ptr %a0"]
    if word is None:
        return None
    return load + to_integer(fmt, word, "u" if code in _UNSIGNED else "s", "rz") + [f"store {word} %r, ptr %a0"]


def _shim_function(name, args, called, fmt):
    """`_ZL<n>__hadd6__halfS__nbst` and its kind."""
    count = len(args) - 1
    plain = called.removesuffix("_rn")
    if plain in ("hadd", "hsub", "hmul", "hdiv"):
        # the _rn forms are never fused with a neighbour; a copy under another name keeps them apart
        suffix = ".rn" if called.endswith("_rn") else ""
        return _shim_body(name, args, _loads(2) + [f"%r = call i16 @emu.{fmt}.{plain[1:]}{suffix}(i16 %x, i16 %y)",
                                                   "store i16 %r, ptr %a0"])
    if called == "hfma":
        return _shim_body(name, args, _loads(3) + [f"%r = call i16 @emu.{fmt}.fma(i16 %x, i16 %y, i16 %z)",
                                                   "store i16 %r, ptr %a0"])
    if called == "hneg":
        return _shim_body(name, args, _loads(1) + [f"%r = call i16 @emu.{fmt}.neg(i16 %x)", "store i16 %r, ptr %a0"])
    if called == "habs":
        return _shim_body(name, args, _loads(1) + ["%r = and i16 %x, 32767", "store i16 %r, ptr %a0"])
    if called in ("hmax", "hmin", "hmax_nan", "hmin_nan"):
        kind = ("maximum" if "max" in called else "minimum") if called.endswith("_nan") else \
            ("maximumnum" if "max" in called else "minimumnum")
        return _shim_body(name, args, _loads(2) + [
            f"%p = call float @emu.{fmt}.to_f32(i16 %x)", f"%q = call float @emu.{fmt}.to_f32(i16 %y)",
            f"%m = call float @llvm.{kind}.f32(float %p, float %q)",
            f"%r = call i16 @emu.{fmt}.from_f32(float %m)", "store i16 %r, ptr %a0"])
    unordered = called.endswith("u")
    if called.startswith("h") and called[1:3] in _COMPARISONS and len(called) == 3 + unordered:
        condition = _COMPARISONS[called[1:3]]
        condition = ("u" if unordered else "o") + condition[1:]
        return _shim_body(name, args, _loads(2) + _compared(fmt, condition))
    if called in ("hisnan", "hisinf"):
        test = ["%t = fcmp uno float %f, %f"] if called == "hisnan" else [
            "%m = call float @llvm.fabs.f32(float %f)", "%t = fcmp oeq float %m, 0x7FF0000000000000"]
        width = "i32" if called == "hisinf" else "i8"
        return _shim_body(name, args, _loads(1) + [f"%f = call float @emu.{fmt}.to_f32(i16 %x)", *test,
                                                   f"%r = zext i1 %t to {width}", f"store {width} %r, ptr %a0"])
    unary = _UNARY_MATH.get(called)
    if unary or called in ("hrcp", "hrsqrt", "htanh", "htanh_approx"):
        if unary:
            value = [f"%g = call float @llvm.{unary}.f32(float %f)"]
        elif called == "hrcp":
            value = ["%g = fdiv float 1.0, %f"]
        elif called == "hrsqrt":
            value = ["%s = call float @llvm.sqrt.f32(float %f)", "%g = fdiv float 1.0, %s"]
        else:
            value = ["%g = call float @llvm.tanh.f32(float %f)"]
        return _shim_body(name, args, _loads(1) + [f"%f = call float @emu.{fmt}.to_f32(i16 %x)", *value,
                                                   f"%r = call i16 @emu.{fmt}.from_f32(float %g)",
                                                   "store i16 %r, ptr %a0"])
    if re.fullmatch(r"ld(g|ca|cg|cs|cv|lu)", called):
        return None
    if called in ("half2float", "bfloat162float"):
        return _shim_body(name, args, _converted_to(fmt, "float", "f"))
    integer = re.fullmatch(r"(?:half|bfloat16)2(char|uchar|short|ushort|int|uint|ll|ull)_(rn|rz|rd|ru)", called)
    if integer and count == 1:
        word, signed = INTEGERS[integer[1]]
        return _shim_body(name, args, _loads(1) + to_integer(fmt, word, signed, integer[2])
                          + [f"store {word} %r, ptr %a0"])
    if re.fullmatch(r"(half|bfloat16)_as_u?short", called):
        return _shim_body(name, args, _loads(1) + ["store i16 %x, ptr %a0"])
    return None

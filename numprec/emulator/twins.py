"""Host twins: what each GPU operation does, as LLVM IR for the host.

`definition(name, signature)` gives the text of the function that stands in for a GPU operation, or None where there is
none: then the kernel is refused, by name. The names are those that Numba's code calls:

    __nv_expf                  NVIDIA's math library        -> itself (libdevice.py); where it is not installed, the
                               host's, or an LLVM intrinsic
    emu.nvvm.d2i.hi            what that library calls
    _ZplRK6__halfS1__nbst      Numba's float16 and bfloat16 shims, mangled C++ names (halves.py)
    ___numba_atomic_float_max  atomics that Numba writes itself
    emu.asm.cvt.rn.f16.f32     inline PTX, keyed by its mnemonic

Source
    [1] PTX ISA, sections "Floating Point Instructions", "Half Precision Floating Point Instructions", "cvt".
"""
import re

from numprec.emulator.halves import BINARY, DIRECTED, INTEGERS, from_integer, shim, to_integer
from numprec.emulator.ir import SUFFIX, function

# ---- NVIDIA's math library

# functions for which the host's C library has one of the same name
_LIBM = ("acos acosh asin asinh atan atan2 atanh cbrt cosh erf erfc expm1 fdim fmod hypot lgamma log1p nextafter "
         "remainder sinh tan tanh tgamma j0 j1 y0 y1 logb frexp modf").split()
# functions that are an LLVM intrinsic
_INTRINSIC = {"ceil": "ceil", "floor": "floor", "trunc": "trunc", "rint": "rint", "nearbyint": "nearbyint",
              "round": "round", "fabs": "fabs", "sqrt": "sqrt", "copysign": "copysign", "fma": "fma",
              "fmin": "minimumnum", "fmax": "maximumnum", "exp": "exp", "exp2": "exp2", "log": "log", "log2": "log2",
              "log10": "log10", "sin": "sin", "cos": "cos", "pow": "pow"}
_ROUNDED = {"add": "fadd", "sub": "fsub", "mul": "fmul", "div": "fdiv"}
LIBM_NAMES = frozenset(name + suffix for suffix in ("", "f")
                       for name in [*_LIBM, *"exp exp2 log log2 log10 sin cos pow fma ldexp".split()])


def _math(name, ret, args):
    """Twin of `__nv_<name>`, or None."""
    base = name.removeprefix("__nv_")
    real = "float" if "float" in (ret, *args) else "double"
    suffix = SUFFIX[real]
    stem = base[:-1] if real == "float" and base.endswith("f") else base
    values = ", ".join(f"{t} %a{i}" for i, t in enumerate(args))
    kinds = ", ".join(args)

    def external(symbol):
        return f"declare {ret} @{symbol}({kinds})\n" + function(
            name, ret, args, f"%r = call {ret} @{symbol}({values})", f"ret {ret} %r")

    def intrinsic(symbol, *extra):
        return function(name, ret, args, f"%r = call {ret} @llvm.{symbol}({', '.join([values, *extra])})",
                        f"ret {ret} %r")

    if stem.startswith("fast_"):
        stem = stem.removeprefix("fast_")
    if stem in _LIBM:
        return external(stem + ("f" if real == "float" else ""))
    if stem in _INTRINSIC:
        return intrinsic(f"{_INTRINSIC[stem]}.{suffix}")
    if stem == "exp10":
        return intrinsic(f"exp10.{suffix}")
    if stem in ("rsqrt", "rcbrt"):
        root = f"%s = call {real} @llvm.sqrt.{suffix}({real} %a0)" if stem == "rsqrt" else \
            f"%s = call {real} @cbrt{'f' if real == 'float' else ''}({real} %a0)"
        declare = "" if stem == "rsqrt" else f"declare {real} @cbrt{'f' if real == 'float' else ''}({real})\n"
        return declare + function(name, ret, args, root, f"%r = fdiv {real} 1.0, %s", f"ret {real} %r")
    if stem in ("powi",):
        return function(name, ret, args, f"%n = sitofp i32 %a1 to {real}",
                        f"%r = call {real} @llvm.pow.{suffix}({real} %a0, {real} %n)", f"ret {real} %r")
    if stem in ("ldexp", "scalbn"):
        return intrinsic(f"ldexp.{suffix}.i32")
    if stem in ("llrint", "llround"):
        kind = "rint" if stem == "llrint" else "round"
        real = args[0]
        return function(name, ret, args, f"%f = call {real} @llvm.{kind}.{SUFFIX[real]}({real} %a0)",
                        f"%r = call {ret} @llvm.fptosi.sat.{ret}.{SUFFIX[real]}({real} %f)", f"ret {ret} %r")
    if base in ("isnanf", "isnand", "isinff", "isinfd", "finitef", "isfinited"):
        test = {"isn": ("uno", "%a0"), "isi": ("oeq", "0x7FF0000000000000"), "fin": ("one", "0x7FF0000000000000"),
                "isf": ("one", "0x7FF0000000000000")}[base[:3]]
        return function(name, ret, args, f"%m = call {real} @llvm.fabs.{suffix}({real} %a0)",
                        f"%t = fcmp {test[0]} {real} %m, {test[1].replace('%a0', '%m')}",
                        f"%r = zext i1 %t to {ret}", f"ret {ret} %r")
    if base in ("signbitf", "signbitd"):
        word = "i32" if real == "float" else "i64"
        return function(name, ret, args, f"%b = bitcast {real} %a0 to {word}", f"%t = icmp slt {word} %b, 0",
                        f"%r = zext i1 %t to {ret}", f"ret {ret} %r")
    if base in ("saturatef",):
        return function(name, ret, args, "%l = call float @llvm.maxnum.f32(float %a0, float 0.0)",
                        "%r = call float @llvm.minnum.f32(float %l, float 1.0)", "ret float %r")
    if base == "fast_fdividef":
        return function(name, ret, args, "%r = fdiv float %a0, %a1", "ret float %r")
    rounded = re.fullmatch(r"[fd](add|sub|mul|div)_rn", base)
    if rounded:                                        # never fused with its neighbours
        return function(name, ret, args, f"%r = {_ROUNDED[rounded[1]]} {real} %a0, %a1", f"ret {real} %r")
    if base in ("fmaf_rn", "fma_rn"):
        return intrinsic(f"fma.{suffix}")
    if base in ("fsqrt_rn", "dsqrt_rn"):
        return intrinsic(f"sqrt.{suffix}")
    if base in ("frcp_rn", "drcp_rn"):
        return function(name, ret, args, f"%r = fdiv {real} 1.0, %a0", f"ret {real} %r")
    if base in ("abs", "llabs"):
        return intrinsic(f"abs.{ret}", "i1 false")
    if base in ("min", "llmin", "max", "llmax", "umin", "ullmin", "umax", "ullmax"):
        kind = ("u" if base.startswith("u") else "s") + base[-3:]
        return intrinsic(f"{kind}.{ret}")
    if base in ("popc", "popcll", "clz", "clzll", "brev", "brevll"):
        kind = {"popc": "ctpop", "clz": "ctlz", "brev": "bitreverse"}[base.removesuffix("ll")]
        word = args[0]
        extra = ["i1 false"] if kind == "ctlz" else []
        narrow = f"%r = trunc {word} %w to {ret}" if word != ret else f"%r = or {ret} %w, 0"
        call = ", ".join([f"{word} %a0", *extra])
        return function(name, ret, args, f"%w = call {word} @llvm.{kind}.{word}({call})", narrow, f"ret {ret} %r")
    if base in ("ffs", "ffsll"):
        word = args[0]
        narrow = f"%n = trunc {word} %c to {ret}" if word != ret else f"%n = or {ret} %c, 0"
        return function(name, ret, args, f"%c = call {word} @llvm.cttz.{word}({word} %a0, i1 false)", narrow,
                        f"%p = add {ret} %n, 1", f"%z = icmp eq {word} %a0, 0",
                        f"%r = select i1 %z, {ret} 0, {ret} %p", f"ret {ret} %r")
    if base in ("mulhi", "umulhi", "mul64hi", "umul64hi"):
        wide, shift = ("i64", 32) if ret == "i32" else ("i128", 64)
        ext = "zext" if base.startswith("u") else "sext"
        return function(name, ret, args, f"%x = {ext} {ret} %a0 to {wide}", f"%y = {ext} {ret} %a1 to {wide}",
                        f"%p = mul {wide} %x, %y", f"%h = lshr {wide} %p, {shift}",
                        f"%r = trunc {wide} %h to {ret}", f"ret {ret} %r")
    converted = re.fullmatch(r"(?:float|double)2(int|uint|ll|ull)_(rn|rz|rd|ru)", base)
    if converted:
        word, signed = INTEGERS[converted[1]]
        return function(name, ret, args, f"%f = call {real} @llvm.{DIRECTED[converted[2]]}.{suffix}({real} %a0)",
                        f"%r = call {ret} @llvm.fpto{signed}i.sat.{ret}.{suffix}({real} %f)", f"ret {ret} %r")
    converted = re.fullmatch(r"(int|uint|ll|ull)2(?:float|double)_rn", base)
    if converted:
        kind = f"{INTEGERS[converted[1]][1]}itofp"
        return function(name, ret, args, f"%r = {kind} {args[0]} %a0 to {ret}", f"ret {ret} %r")
    if base == "double2float_rn":
        return function(name, ret, args, "%r = fptrunc double %a0 to float", "ret float %r")
    if base in ("float_as_int", "int_as_float", "double_as_longlong", "longlong_as_double"):
        return function(name, ret, args, f"%r = bitcast {args[0]} %a0 to {ret}", f"ret {ret} %r")
    return None


# ---- the pieces of that library which are instructions of a GPU; see libdevice.py

def _piece(name, ret, args):
    """Twin of `emu.nvvm.<name>`, or None. `.ftz` takes subnormal numbers for 0, but is only chosen with fastmath."""
    def pure(*lines):
        return function(name, ret, args, *lines, f"ret {ret} %r")

    stem = name.removeprefix("emu.nvvm.").replace(".ftz", "")
    m = re.fullmatch(r"(add|mul)\.rn\.[fd]", stem)
    if m:
        return pure(f"%r = {_ROUNDED[m[1]]} {ret} %a0, %a1")
    if stem in ("d2i.lo", "d2i.hi"):
        return pure("%b = bitcast double %a0 to i64", f"%h = lshr i64 %b, {32 if stem.endswith('hi') else 0}",
                    "%r = trunc i64 %h to i32")
    if stem == "lohi.i2d":
        return pure("%l = zext i32 %a0 to i64", "%h0 = zext i32 %a1 to i64", "%h = shl i64 %h0, 32",
                    "%b = or i64 %h, %l", "%r = bitcast i64 %b to double")
    m = re.fullmatch(r"([fd])2i\.(rn|rz)", stem)
    if m:
        suffix = "f32" if m[1] == "f" else "f64"
        return pure(f"%f = call {args[0]} @llvm.{DIRECTED[m[2]]}.{suffix}({args[0]} %a0)",
                    f"%r = call i32 @llvm.fptosi.sat.i32.{suffix}({args[0]} %f)")
    if stem == "saturate.f":
        return pure("%l = call float @llvm.maximumnum.f32(float %a0, float 0.0)",
                    "%r = call float @llvm.minimumnum.f32(float %l, float 1.0)")
    if stem in ("fma.rm.f", "fma.rz.f", "add.rz.f"):
        return pure(*_directed(stem))
    if stem.startswith("sqrt."):
        return pure(f"%r = call {ret} @llvm.sqrt.{SUFFIX[ret]}({ret} %a0)")
    if stem == "rcp.approx.f":
        return pure("%r = fdiv float 1.0, %a0")
    if stem == "mad.wide":
        return pure(*(f"%w{i} = zext i32 %a{i} to i64" for i in range(3)), "%p = mul i64 %w0, %w1",
                    "%s = add i64 %p, %w2", "%l = trunc i64 %s to i32", "%t = lshr i64 %s, 32",
                    "%h = trunc i64 %t to i32", "%q = insertvalue { i32, i32 } poison, i32 %l, 0",
                    "%r = insertvalue { i32, i32 } %q, i32 %h, 1")
    if stem == "div.approx.f":
        return pure("%r = fdiv float %a0, %a1")
    if stem == "rcp.approx.d":                          # of 20 bits of the fraction, and to as many
        return pure("%b = bitcast double %a0 to i64", "%c = and i64 %b, -4294967296", "%x = bitcast i64 %c to double",
                    "%q = fdiv double 1.0, %x", "%qb = bitcast double %q to i64", "%up = add i64 %qb, 2147483648",
                    "%cut = and i64 %up, -4294967296", "%near = bitcast i64 %cut to double",
                    "%t = fcmp uno double %q, %q", "%r = select i1 %t, double %q, double %near")
    m = re.fullmatch(r"(ex2|lg2|rsqrt)\.approx(?:\.[fd]|\.f32)?", stem)
    if m:
        x, narrow = ("%x", True) if ret == "float" else ("%a0", False)
        lines = ["%x = fpext float %a0 to double"] if narrow else []
        result = "%y" if narrow else "%r"
        if m[1] == "rsqrt":
            lines += [f"%s = call double @llvm.sqrt.f64(double {x})", f"{result} = fdiv double 1.0, %s"]
        else:
            kind = "exp2" if m[1] == "ex2" else "log2"
            lines += [f"{result} = call double @llvm.{kind}.f64(double {x})"]
        return pure(*lines, *(["%r = fptrunc double %y to float"] if narrow else []))
    return None


def _directed(stem):
    """Lines for %r = the sum of %a0 * %a1 and %a2, or of %a0 and %a1, rounded down or towards 0: the sum in float64,
    whose own error is known by TwoSum, tells whether the nearest float32 went too far."""
    x, y = "%x = fpext float %a0 to double", "%y = fpext float %a1 to double"
    lines = [x, y, "%z = fpext float %a2 to double", "%p = fmul double %x, %y"] if stem.startswith("fma") else [
        x, "%z = fpext float %a1 to double", "%p = fadd double %x, -0.0"]
    lines += ["%s = fadd double %p, %z", "%z1 = fsub double %s, %p", "%p1 = fsub double %s, %z1",
              "%dz = fsub double %z, %z1", "%dp = fsub double %p, %p1", "%e = fadd double %dz, %dp",
              "%f = fptrunc double %s to float", "%back = fpext float %f to double",
              "%b = bitcast float %f to i32"]
    above = ["%higher = fcmp ogt double %back, %s", "%same = fcmp oeq double %back, %s",
             "%e.below = fcmp olt double %e, 0.0", "%rest = and i1 %same, %e.below", "%above = or i1 %higher, %rest"]
    down = ["%negative = icmp slt i32 %b, 0", "%less = add i32 %b, -1", "%more = add i32 %b, 1",
            "%step = select i1 %negative, i32 %more, i32 %less", "%zero = fcmp oeq float %f, 0.0",
            "%next = select i1 %zero, i32 -2147483647, i32 %step", "%rb = select i1 %above, i32 %next, i32 %b"]
    if ".rz" in stem:
        above = ["%lower = fcmp olt double %s, 0.0", "%s.abs = call double @llvm.fabs.f64(double %s)",
                 "%e.minus = fneg double %e", "%e.abs = select i1 %lower, double %e.minus, double %e",
                 "%back.abs = call double @llvm.fabs.f64(double %back)",
                 "%higher = fcmp ogt double %back.abs, %s.abs", "%same = fcmp oeq double %back.abs, %s.abs",
                 "%e.below = fcmp olt double %e.abs, 0.0", "%rest = and i1 %same, %e.below",
                 "%above = or i1 %higher, %rest"]
        down = ["%step = add i32 %b, -1", "%rb = select i1 %above, i32 %step, i32 %b"]
    return [*lines, *above, *down, "%r = bitcast i32 %rb to float"]


def in_library(name):
    """Whether `name` is a function of NVIDIA's library that is more than an instruction: exp, log, tanh and others."""
    stem = name.removeprefix("__nv_")
    return name.startswith("__nv_") and (stem in LIBM_NAMES - {"fma", "fmaf", "ldexp", "ldexpf"}
                                         or stem in ("exp10", "exp10f", "rsqrt", "rsqrtf", "rcbrt", "rcbrtf"))


# ---- atomics that Numba writes in IR of its own

def _atomic(name, ret, args):
    body = {"inc": "uinc_wrap", "dec": "udec_wrap", "add": "fadd", "sub": "fsub"}
    kind = name.rpartition("_")[2]
    if kind in body:
        return function(name, ret, args, f"%r = atomicrmw {body[kind]} ptr %a0, {ret} %a1 monotonic", f"ret {ret} %r")
    if kind in ("max", "min"):
        # a NaN in memory stays, and a NaN brought changes nothing: neither compares as smaller or larger
        word = "i32" if ret == "float" else "i64"
        condition = "olt" if kind == "max" else "ogt"
        return f"""define internal {ret} @"{name}"(ptr %p, {ret} %v) alwaysinline {{
entry:
  %first = load atomic {word}, ptr %p monotonic, align {4 if ret == "float" else 8}
  %new = bitcast {ret} %v to {word}
  br label %try
try:
  %old = phi {word} [ %first, %entry ], [ %seen, %swap ]
  %old.f = bitcast {word} %old to {ret}
  %better = fcmp {condition} {ret} %old.f, %v
  br i1 %better, label %swap, label %done
swap:
  %pair = cmpxchg ptr %p, {word} %old, {word} %new monotonic monotonic
  %seen = extractvalue {{ {word}, i1 }} %pair, 0
  %won = extractvalue {{ {word}, i1 }} %pair, 1
  br i1 %won, label %done, label %try
done:
  %r = bitcast {word} %old to {ret}
  ret {ret} %r
}}
"""
    if kind in ("nanmax", "nanmin"):
        # a NaN brought changes nothing, a NaN in memory is replaced
        operation = "fmax" if kind == "nanmax" else "fmin"
        return function(name, ret, args, f"%r = atomicrmw {operation} ptr %a0, {ret} %a1 monotonic", f"ret {ret} %r")
    return None


# ---- inline PTX

def _asm(mnemonic, name, ret, args):
    """Twin of an inline PTX instruction `mnemonic $0, $1, ...`, or None."""
    def pure(*lines):
        return function(name, ret, args, *lines, f"ret {ret} %r")

    m = re.fullmatch(r"cvt\.rn\.f16\.(f32|f64)", mnemonic)
    if m:
        return pure(f"%r = call i16 @emu.half.from_{m[1]}({args[0]} %a0)")
    m = re.fullmatch(r"cvt\.(f32|f64)\.f16", mnemonic)
    if m:
        return pure(f"%r = call {ret} @emu.half.to_{m[1]}(i16 %a0)")
    m = re.fullmatch(r"cvt\.rn\.f16\.([su])(\d+)", mnemonic)
    if m:
        x = f"%x = or {args[0]} %a0, 0"
        return pure(x, *from_integer("half", args[0], m[1]))
    m = re.fullmatch(r"cvt\.rni\.([su])(\d+)\.f16", mnemonic)
    if m:
        return pure("%x = or i16 %a0, 0", *to_integer("half", ret, m[1], "rn"))
    if mnemonic == "cvt.rn.bf16.f32":
        return pure("%r = call i16 @emu.bf16.from_f32(float %a0)")
    m = re.fullmatch(r"(add|sub|mul)\.rn\.(f16|f32|f64)", mnemonic)
    if m:
        if m[2] == "f16":
            return pure(f"%r = call i16 @emu.half.{m[1]}.rn(i16 %a0, i16 %a1)")
        return pure(f"%r = {_ROUNDED[m[1]]} {ret} %a0, %a1")
    m = re.fullmatch(r"(add|sub|mul)(?:\.rn)?\.f16x2", mnemonic)
    if m:
        return pure(f"%r = call i32 @emu.half2.{m[1]}(i32 %a0, i32 %a1)")
    if mnemonic == "fma.rn.f16x2":
        return pure("%r = call i32 @emu.half2.fma(i32 %a0, i32 %a1, i32 %a2)")
    if mnemonic == "fma.rn.f16":
        return pure("%r = call i16 @emu.half.fma(i16 %a0, i16 %a1, i16 %a2)")
    if mnemonic in ("fma.rn.f32", "fma.rn.f64"):
        return pure(f"%r = call {ret} @llvm.fma.{SUFFIX[ret]}({ret} %a0, {ret} %a1, {ret} %a2)")
    if mnemonic in ("mov.b16", "mov.b32", "mov.b64"):
        return pure(f"%r = bitcast {args[0]} %a0 to {ret}" if args[0] != ret else f"%r = freeze {ret} %a0")
    if mnemonic == "tanh.approx.f32":
        return pure("%r = call float @llvm.tanh.f32(float %a0)")
    if mnemonic == "nanosleep.u32":
        return function(name, ret, args, "ret void")
    m = re.fullmatch(r"ld(?:\.global)?(?:\.(?:ca|cg|cs|lu|cv|nc))*\.[bsuf](\d+)", mnemonic)
    if m:
        return pure(f"%r = load {ret}, ptr %a0")
    m = re.fullmatch(r"st(?:\.global)?(?:\.(?:wb|cg|cs|wt))*\.[bsuf](\d+)", mnemonic)
    if m:
        return function(name, ret, args, f"store {args[1]} %a1, ptr %a0", "ret void")
    return None


def definition(name, ret, args):
    """IR text of the twin of the function `name` (return type `ret`, argument types `args`), or None."""
    if name.startswith("__nv_"):
        return _math(name, ret, args)
    if name.startswith("emu.nvvm."):
        return _piece(name, ret, args)
    if name.startswith("___numba_atomic_"):
        return _atomic(name, ret, args)
    if name.startswith("emu.asm."):
        return _asm(name.removeprefix("emu.asm."), name, ret, args)
    rounded = re.fullmatch(r"emu\.(half|bf16)\.(add|sub|mul|div)\.rn", name)
    if rounded:
        return BINARY.format(fmt=rounded[1], name=f"{rounded[2]}.rn", op="f" + rounded[2])
    return shim(name, args)

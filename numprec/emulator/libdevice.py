"""NVIDIA's math library, where it is installed: exp, log, tanh and their kin with the bits that a GPU gives them.

On a GPU `math.exp` is code too: functions in LLVM's bitcode, `libdevice.10.bc`, that come with NVIDIA's compiler (the
extras cu12 and cu13) and are linked into every kernel. The emulator links the same functions, and fuses them with the
same rule. Without the file the host's C library stands in, whose results differ in the last few bits.

What is exact: all that the library does with sums, products and fma's, and these are in float64 exp, exp2, expm1, sin,
cos, sinh, asin, acos, and in float32 log, log2, log10, log1p, sin, cos, atan, pow. The others begin with one of the
processor's approximations, whose bits NVIDIA does not publish. It is computed here in float64 and rounded once, so that
it lies within the bounds that [1] states, of which a GPU's may use all:

    ex2.approx.f32     2 ulp over the full range        exp, expm1, tanh, erf, sinh, cosh in float32
    lg2.approx.f32     2^-22 absolute or relative       cbrt
    rcp.approx.f64     gross, on 20 bits of the fraction; Newton's steps then make it nearly exact: log, tanh, pow, atan
                       and cosh in float64
    rsqrt.approx.f32   2^-22.9 relative                 rsqrt, asin, acos in float32
    rsqrt.approx.f64   gross; used as it is by rsqrt in float64

Source [1] PTX ISA 8.8, section "Floating Point Instructions": ex2, lg2, rcp.approx.ftz.f64, rsqrt.
"""
import functools
import hashlib
import re

_FUNCTION = re.compile(r'^define (?P<head>[^@]*)@"?(?P<name>[\w.$]+)"?\((?P<args>[^\n]*)\)[^\n]*\{\n(?P<body>.*?)^}$',
                       re.M | re.S)
_CALLED = re.compile(r'call [^@\n]*@"?([\w.$]+)')
_GLOBAL = re.compile(r"^(@[\w.$]+) = (?:private |internal )(?:unnamed_addr )?(?:addrspace\(\d+\) )?(.*)$", re.M)
_TYPE = re.compile(r"^%[\w.]+ = type .*$", re.M)
_REFLECT = re.compile(r"call i32 @__nvvm_reflect\(ptr (@[\w.$]+)\)")
_ASKED = {"__CUDA_FTZ": 0, "__CUDA_PREC_SQRT": 1, "__CUDA_PREC_DIV": 1, "__CUDA_ARCH": 750}

_ASM = re.compile(r'call (?P<ret>[\w{}, ]+?) asm "(?P<text>[^"]*)", "[^"]*"')
_WRITTEN = {"rcp.approx.ftz.f32": "rcp.approx.f", "rsqrt.approx.ftz.f64": "rsqrt.approx.d",
            "{\\0A\\09mad.lo.cc.u32": "mad.wide"}

# the pieces that are an intrinsic of LLVM's; twins.py has the others
_SAME = {**{f"fma.rn{ftz}.f": "fma.f32" for ftz in ("", ".ftz")}, "fma.rn.d": "fma.f64",
         **{f"{name}{ftz}.{kind}": f"{llvm}.{suffix}"
            for name, llvm in (("floor", "floor"), ("trunc", "trunc"), ("round", "roundeven"), ("ceil", "ceil"),
                               ("fabs", "fabs"), ("fmin", "minimumnum"), ("fmax", "maximumnum"))
            for ftz in ("", ".ftz")
            for kind, suffix in (("f", "f32"), ("d", "f64"), ("f32", "f32"), ("f64", "f64"))}}


@functools.lru_cache(maxsize=None)
def bitcode():
    """The library's file, or None where there is none."""
    from numba.cuda.cudadrv import libs
    try:
        return libs.open_libdevice()
    except (OSError, TypeError, RuntimeError, KeyError, AttributeError):       # how Numba says that it found none
        return None


@functools.lru_cache(maxsize=None)
def version():
    """What tells one library from another, or from none."""
    return hashlib.sha256(bitcode() or b"").hexdigest()


@functools.lru_cache(maxsize=None)
def _library():
    """({name: match of its definition}, text of the types, {table: its definition}, {name of a string: the string})"""
    from numprec.emulator import host
    text = str(host.llvm.parse_bitcode(bitcode())) if bitcode() else ""
    return ({m["name"]: m for m in _FUNCTION.finditer(text)}, "\n".join(_TYPE.findall(text)),
            {m[1]: f"{m[1]} = internal {m[2]}" for m in _GLOBAL.finditer(text)},
            {m[1]: m[2] for m in re.finditer(r'^(@[\w.$]+) = .* c"(\w+)\\00"', text, re.M)})


@functools.lru_cache(maxsize=None)
def _definition(name):
    """The definition of a function of the library, or "": what it asks about the compilation is answered, and what only
    a GPU has is a call of `emu.nvvm.<name>`."""
    functions, _, _, asked = _library()
    m = functions.get(name)
    if not m:
        return ""
    body = _REFLECT.sub(lambda r: f"or i32 0, {_ASKED[asked[r[1]]]}", m["body"])
    body = _ASM.sub(lambda a: f"call {a['ret']} @emu.nvvm.{_WRITTEN.get(a['text'].split(' ')[0], 'asm')}", body)
    body = re.sub(r"@llvm\.nvvm\.([\w.]+)",
                  lambda n: f"@llvm.{_SAME[n[1]]}" if n[1] in _SAME else f"@emu.nvvm.{n[1]}", body)
    body = re.sub(r" #\d+$|(?:, ![\w.]+ !\d+)+$", "", body, flags=re.M)
    body = re.sub(r" addrspace\(\d+\)", "", body).replace("addrspacecast ptr", "bitcast ptr")
    return f'define {m["head"]}@{name}({m["args"]}) {{\n{body}}}\n'


def module(names, has_twin):
    """LLVM's text of those of `names` that the library has, with all that they call; "" where there are none.

    `has_twin(name)` tells which pieces the host has; a function with another piece is left out.
    """
    if not names:
        return ""
    _, types, tables, _ = _library()
    chosen, declared = {}, set()
    for name in names:
        parts, queue = {}, [name]
        while queue:
            part = queue.pop()
            if part not in parts:
                parts[part] = _definition(part)
                queue += _CALLED.findall(parts[part])
        pieces = [part for part in parts if not parts[part]]
        if name not in pieces and all(piece.startswith("llvm.") or has_twin(piece) for piece in pieces):
            chosen.update({part: text for part, text in parts.items() if text})
    if not chosen:
        return ""
    text = "\n".join(chosen.values())
    for m in re.finditer(r'call (?P<ret>[\w{}, ]+?) (?P<name>@(?:emu\.nvvm|llvm)\.[\w.]+)\((?P<args>[^)]*)\)', text):
        kinds = ", ".join(argument.split()[0] for argument in m["args"].split(", "))
        declared.add(f"declare {m['ret']} {m['name']}({kinds})")
    used = [tables[name] for name in sorted(set(re.findall(r"@[\w.$]+", text)) & tables.keys())]
    return "\n".join([types, *used, *sorted(declared), text])

"""Whether the emulator rounds what a GPU rounds: the products, sums, multiply-adds and conversions of a kernel, counted
in the code that the emulator runs and in the machine code that NVIDIA's compilers make.

Both start from the same text of Numba's, changed for counting, never to be run:

- Loops are not unrolled, so that a line of the source is counted once. Without that, counts would say how often NVVM
  repeats a loop's body.
- What a GPU makes of several operations (division, roots, exp and their kin) counts as one: divisions become
  choices of the lesser number (sums, in float16), functions of one argument become absolute values.
- On the machine's side alone, float16's sums, products and comparisons get their bodies in the text (`_HALVES`), which
  the emulator has of its own: the optimiser that would link them in unrolls loops after all.

An instruction that does two float16 operations counts as two. What may still differ, without a bit of a result:
NVIDIA's compilers compute once what the text has twice, and copy a loop for each value of a condition that it does not
change.
"""
import re
import struct
from collections import Counter
from functools import lru_cache

from numprec.harness.measure import audit, machine_code

_INSTRUCTION = 16                                               # bytes, from sm_70 on
# The last nine bits of an instruction: FMUL, FADD, FFMA, ..., then conversions
_KINDS = {0x20: "mul.f32", 0x21: "add.f32", 0x23: "fma.f32", 0x28: "mul.f64", 0x29: "add.f64", 0x2b: "fma.f64",
          0x30: "add.f16", 0x31: "fma.f16", 0x32: "mul.f16"}
_ANY_FLOAT16 = 0x35             # HFMA2.MMA of sm_80 and later: a sum, a product or both
_IMMEDIATE = 2, 4               # forms of an instruction, its bits 9 to 11, that hold a number from bit 32 on
_CONVERSIONS = 0x104, 0x110, 0x3e                               # F2F, that of float64, F2FP
_TO_FLOAT32 = 1 << 14           # of HADD2's upper half: the result is a float32, which sm_75 and later convert with
_ZERO = 0xff                    # the register that is always zero


def _routine(pattern, line):
    """(pattern, substitution) that give a float16 routine a body. `line` makes %z of %a, and of %b if it takes two."""
    def define(m):
        pair = "arg1" in m["rest"]
        kind = "i8" if "i8*" in m["rest"] else "i16"
        loads = "".join(f"  %{x} = load i16, i16* %at.{x}\n" for x in ("ab" if pair else "a"))
        parameters = ", ".join(f"i16* %at.{x}" for x in ("ab" if pair else "a"))
        return (f"define linkonce_odr i32 {m['name']}({kind}* %result, {parameters}) {{\n{loads}  {line}\n"
                f"  store {kind} %z, {kind}* %result\n  ret i32 0\n}}")
    return re.compile(rf'^declare i32 (?P<name>@"?{pattern}_nbst"?)\((?P<rest>.*)$', re.M), define


_SUM = '%z = call i16 asm "add.rn.f16 $0, $1, $2;", "=h,h,h"(i16 %a, i16 %b)'
_MAGNITUDE = "%z = and i16 %a, 32767"
_ONE_FOR_SEVERAL = [
    _routine("_ZdvRK6__halfS1_", _SUM),
    _routine(r"_ZL\d+h(?:exp|exp2|exp10|log|log2|log10|rcp|sqrt|rsqrt|sin|cos|tanh)6__half", _MAGNITUDE)]
# As cuda_fp16.hpp writes them, but for comparisons and magnitudes, which are not counted
_HALVES = [
    *(_routine(f"_Z{code}RK6__halfS1_", f'%z = call i16 asm "{{{name}.f16 $0,$1,$2;}}", "=h,h,h"(i16 %a, i16 %b)')
      for code, name in (("pl", "add"), ("mi", "sub"), ("ml", "mul"))),
    _routine("_ZL6__habs6__half", _MAGNITUDE),
    _routine("_ZngRK6__half", '%z = call i16 asm "{neg.f16 $0,$1;}", "=h,h"(i16 %a)'),
    *(_routine(f"_Z{code}RK6__halfS1_", f"%truth = icmp {name} i16 %a, %b\n  %z = zext i1 %truth to i8")
      for code, name in (("eq", "eq"), ("ne", "ne"), ("lt", "slt"), ("le", "sle"), ("gt", "sgt"), ("ge", "sge"))),
]


_DIVISION = re.compile(
    r'^ *(?P<name>%"?[^" =]+)(?P<quote>"?) = fdiv (?P<type>\w+) (?P<x>[^,]+), (?P<y>\S+)(?P<rest>.*)$', re.M)


def _lesser(m):
    """The lesser of two numbers, where the text divides them."""
    less = f"{m['name']}.less{m['quote']}"
    return (f"  {less} = fcmp olt {m['type']} {m['x']}, {m['y']}\n"
            f"  {m['name']}{m['quote']} = select i1 {less}, {m['type']} {m['x']}, {m['type']} {m['y']}{m['rest']}")


def comparable(text):
    """Numba's text of one module, changed as the module's docstring says."""
    text = _DIVISION.sub(_lesser, text)
    text = re.sub(r'\b(float|double) @"?__nv_\w+"?\(\1 ([^,()]*)\)',
                  lambda m: f'{m[1]} @"__nv_fabs{"f" if m[1] == "float" else ""}"({m[1]} {m[2]})', text)
    for pattern, define in _ONE_FOR_SEVERAL:
        text = pattern.sub(define, text)
    seen, lines, labels, loops = set(), [], set(), []
    first = 1 + max(map(int, re.findall(r"^!(\d+) = ", text, re.M)), default=-1)
    for line in text.split("\n"):
        if line.startswith("declare "):
            name = re.search(r'@"?([^"(]+)', line)[1]
            if name in seen:                     # two functions have become one
                continue
            seen.add(name)
        elif line.startswith("define "):
            labels = set()
        label = re.match(r'^"?([\w.$\\-]+)"?:', line)
        if label:
            labels.add(label[1])
        elif line.lstrip().startswith("br ") and labels.intersection(re.findall(r'label %"?([\w.$\\-]+)', line)):
            loops.append(first + 1 + len(loops))
            line += f", !llvm.loop !{loops[-1]}"
        lines.append(line)
    if loops:
        lines += [f'!{first} = !{{!"llvm.loop.unroll.disable"}}',
                  *(f"!{loop} = distinct !{{!{loop}, !{first}}}" for loop in loops)]
    return "\n".join(lines)


def _with_halves(text):
    for pattern, define in _HALVES:
        text = pattern.sub(define, text)
    return text


@lru_cache(maxsize=None)
def compile_ptx(kernel, argtypes, compute_capability):
    """PTX of a `@cuda.jit` kernel, its text changed as the module's docstring says."""
    library, _, _ = audit.front_end(kernel, argtypes)
    changed = object.__new__(type(library))      # Numba does not let copy.copy
    changed.__dict__ = vars(library) | dict(_llvm_strs=[_with_halves(comparable(text)) for text in library.llvm_strs],
                                            _ptx_cache={}, _ltoir_cache={}, _lto=False)
    return audit.ptx_of(changed, compute_capability)


def of_machine(kernel, argtypes, compute_capability):
    """Counter of the products, sums, fma's and conversions between floats in machine code: {"fma.f32": 12, ...}."""
    return of_cubin(audit.assembled(compile_ptx(kernel, argtypes, compute_capability), compute_capability))


def of_cubin(code):
    """The same of machine code of sm_75."""
    found = Counter()
    for name, start, length in machine_code.sections(code):
        if name.startswith(".text."):
            for at in range(start, start + length, _INSTRUCTION):
                low, high = struct.unpack_from("<QQ", code, at)
                kind = _kind(low, high)
                if kind:
                    found[kind] += 2 if kind.endswith("f16") and _packed(low, high) else 1
    return found


def _kind(low, high):
    """What an instruction is: a sum with the register that is zero is a negation, an absolute value, or nothing."""
    base = low & 0x1ff
    if base == _ANY_FLOAT16:
        raise NotImplementedError("float16 is not counted in machine code of sm_80 and later")
    kind = "convert" if base in _CONVERSIONS else _KINDS.get(base)
    if base in (0x21, 0x29, 0x30):
        from_registers = low >> 9 & 7 == 1
        other = high & 0xff if base == 0x29 else low >> 32 & 0xff
        if base == 0x30 and high & _TO_FLOAT32:
            return "convert"
        if low >> 24 & 0xff == _ZERO or from_registers and other == _ZERO:
            return None
    return kind


def _packed(low, high):
    """Whether a float16 instruction does two operations, one on each half of its registers. An operand names the half
    that is taken for both (2: .H0_H0, 3: .H1_H1) or each is taken for itself (0); where ptxas does one operation, all
    of them name one."""
    if low >> 9 & 7 in _IMMEDIATE:
        second = low >> 32 & 0xffff == low >> 48
    else:
        second = low >> 60 & 3
    operands = [high >> 10 & 3, second] + [high >> 17 & 3] * (low & 0x1ff == 0x31)
    return not all(operands)


def of_emulator(kernel, argtypes):
    """The same of the code that the emulator runs."""
    from numprec.emulator import host, instrument, rounding, translate
    _, modules, entry = audit.front_end(kernel, argtypes)
    lines = translate.lowered([comparable(text) for text in modules], entry, kernel.py_func.__name__, host.llvm,
                              host.target().machine)[0]
    lines = rounding.fuse(rounding.define(lines))
    used = {name for line in lines for name in re.findall(r"%[\w.]+", line.partition(" = ")[2] or line)}
    found = Counter()
    for line in lines:
        what, times = instrument.operation(line) or ("", 0)
        if instrument.converts_floats(line):
            found["convert"] += 1
        elif " " in what and line.partition(" = ")[0].strip() in used:      # a product that was fused everywhere is not
            fmt, name = what.split()
            kind = f"{name}.{fmt.replace('fp', 'f')}"
            if kind not in _KINDS.values():
                raise NotImplementedError(f"{kind} is not counted in machine code: {line.strip()}")
            found[kind] += times
    return found

"""Numba's text of a kernel, made into text that LLVM reads, with the operations of a GPU as calls without a body.

Numba writes IR with typed pointers and address spaces, names that LLVM would take for its own old ones, and inline PTX.
`prepare` mends one module; what a call without a body becomes is the matter of `translate`.
"""
import re

from numprec.emulator.errors import Unsupported
from numprec.emulator.ir import PURE

_OPENS = {"}": "{", "]": "[", ">": "<", ")": "("}
_SPACE = re.compile(r" addrspace\(\d+\)$")
_NAME = re.compile(r'%?(?:"[^"]*"|[\w.]+)$')
_TAIL = 200          # characters that such an ending has at most


def _type_start(text):
    """Where the type begins with which `text` ends."""
    closing = text[-1]
    if closing not in _OPENS:
        return _NAME.search(text, max(0, len(text) - _TAIL)).start()
    opening, depth, i = _OPENS[closing], 0, len(text)
    while depth or i == len(text):
        i -= 1
        depth += (text[i] == closing) - (text[i] == opening)
    return _type_start(text[:i].rstrip()) if opening == "(" else i        # a function type: its result comes first


def _opaque_pointers(text):
    """`T*` -> `ptr`, innermost first; the IR that Numba writes still has typed pointers, which LLVM no longer reads."""
    lines = text.split("\n")
    for number, line in enumerate(lines):
        if "*" not in line or '] c"' in line:
            continue
        *heads, rest = line.split("*")
        done = ""
        for head in heads:
            done += head
            space = _SPACE.search(done, max(0, len(done) - _TAIL))
            tail = space[0] if space else ""
            done = done.removesuffix(tail)
            done = f"{done[:_type_start(done)]}ptr{tail}"
        lines[number] = done + rest
    return "\n".join(lines)


# LLVM would "upgrade" these names while reading them
_RENAMED = {
    **{f"llvm.nvvm.read.ptx.sreg.{name}": f"emu.ctx.{name}" for name in
       [f"{kind}.{axis}" for kind in ("tid", "ntid", "ctaid", "nctaid") for axis in "xyz"] + ["laneid", "warpsize"]},
    "llvm.nvvm.barrier0": "emu.sync.barrier",
    "llvm.nvvm.barrier0.popc": "emu.sync.barrier.popc",
    "llvm.nvvm.barrier0.and": "emu.sync.barrier.and",
    "llvm.nvvm.barrier0.or": "emu.sync.barrier.or",
    "llvm.nvvm.bar.warp.sync": "emu.sync.warp",
    "llvm.nvvm.shfl.sync.i32": "emu.sync.shfl",
    "llvm.nvvm.vote.sync": "emu.sync.vote",
    "llvm.nvvm.match.any.sync.i32": "emu.sync.match.any.i32",
    "llvm.nvvm.match.any.sync.i64": "emu.sync.match.any.i64",
    "llvm.nvvm.match.all.sync.i32": "emu.sync.match.all.i32",
    "llvm.nvvm.match.all.sync.i64": "emu.sync.match.all.i64",
    "llvm.nvvm.membar.cta": "emu.fence", "llvm.nvvm.membar.gl": "emu.fence", "llvm.nvvm.membar.sys": "emu.fence",
    "llvm.nvvm.atomic.load.add.f32.p0f32": "___numba_atomic_float_add",
    "llvm.nvvm.atomic.load.add.f64.p0f64": "___numba_atomic_double_add",
    "llvm.nvvm.atomic.load.inc.32.p0i32": "___numba_atomic_u32_inc",
    "llvm.nvvm.atomic.load.dec.32.p0i32": "___numba_atomic_u32_dec",
    "cudaCGGetIntrinsicHandle": "emu.grid.handle",
    "cudaCGSynchronize": "emu.sync.grid",
}
_SPECIAL = {"%dynamic_smem_size": "dynamic_smem_size", "%lanemask_lt": "lanemask.lt", "%laneid": "laneid",
            "%warpsize": "warpsize"}
_ASM = re.compile(r'call (?P<ret>[^"@]+?) asm\s+(?P<effect>sideeffect )?(?:alignstack )?'
                  r'"(?P<template>[^"]*)", "(?P<constraints>[^"]*)"\s*\((?P<args>.*)\)')
_FAST = re.compile(r"\b(fadd|fsub|fmul|fdiv|frem|fneg|fcmp|call)"
                   r"((?: (?:fast|nnan|ninf|nsz|arcp|contract|afn|reassoc))+)")
_SHARED = re.compile(r'^(@"[^"]+") = [\w ]*?addrspace\(3\) (?:global|constant) \[(?P<count>\d+) x (?P<of>.*)\]'
                     r'(?: undef)?(?:, align (?P<align>\d+))?\s*$', re.M)
_SIZES = {"i8": 1, "i1": 1, "i16": 2, "half": 2, "i32": 4, "float": 4, "i64": 8, "double": 8, "ptr": 8}


def size_of(kind, llvm, machine):
    """Bytes that an element of an array takes: a number, or a record of them."""
    if kind in _SIZES:
        return _SIZES[kind]
    module = llvm.parse_assembly(f"@x = external global {kind}")
    return machine.target_data.get_abi_size(module.get_global_variable("x").global_value_type)


def types_of(arguments):
    """The types of `i32 %x, {i32, i1} %y`."""
    return [re.match(r"(\{.*\}|\[.*\]|<.*>|[\w]+)", part.strip())[1] for part in split(arguments)]


def split(text):
    """Splits at the commas that are not inside brackets."""
    parts, depth, start = [], 0, 0
    for i, c in enumerate(text):
        depth += c in "({[<"
        depth -= c in ")}]>"
        if c == "," and depth == 0:
            parts.append(text[start:i])
            start = i + 1
    rest = text[start:].strip()
    return [p.strip() for p in parts] + ([rest] if rest else [])


def _inline_ptx(text, kernel):
    """Replaces inline assembly by calls of `emu.asm.<mnemonic>`."""
    declared = {}

    def call(m):
        statements = [s.strip() for s in m["template"].split(";") if s.strip()]
        mnemonic, _, operands = (statements[0] if len(statements) == 1 else "").partition(" ")
        names = re.sub(r"[\s{}\[\]]", "", operands).split(",") if operands else []
        if len(names) == 2 and names[1] in _SPECIAL:
            declared.setdefault(f"emu.ctx.{_SPECIAL[names[1]]}", f"{m['ret']} ()")
            return f"call {m['ret']} @emu.ctx.{_SPECIAL[names[1]]}()"
        if not mnemonic or names != [f"${i}" for i in range(len(names))]:
            raise Unsupported(f"kernel {kernel}: no host twin for the inline PTX {m['template']!r}")
        types = types_of(m["args"])
        name = "emu.asm." + "|".join([mnemonic, m["ret"].replace(" ", ""), *types])
        effect = "" if m["effect"] or "memory" in m["constraints"] or "ptr" in types else PURE
        declared[name] = (m["ret"], types, effect)
        return f'call {m["ret"]} @"{name}"({m["args"]})'

    text = _ASM.sub(call, text)
    lines = []
    for name, what in declared.items():
        if not isinstance(what, str):
            ret, types, effect = what
            lines.append(f'declare {ret} @"{name}"({", ".join(types)}) {effect}')
        elif f'declare {what.partition(" ")[0]} @"{name}"' not in text:
            lines.append(f"declare i32 @{name}() {PURE}")
    return text + "\n" + "\n".join(lines) + "\n"


_ALLOCA = re.compile(r'^\s*%\S+ = alloca [^\n]*\n', re.M)


def _hoist_allocas(text):
    """Moves every alloca to the entry of its function. Numba puts some into loops, where each pass would take more of
    the stack, and LLVM makes registers only of those in the entry block."""
    def one(m):
        allocas = "".join(_ALLOCA.findall(m["body"]))
        return m["head"] + allocas + _ALLOCA.sub("", m["body"])
    return re.sub(r"^(?P<head>define [^\n]*\n\{?\n?entry:\n)(?P<body>.*?^\}$)", one, text, flags=re.M | re.S)


_ZEROED = re.compile(r"store \[(?P<count>\d+) x (?P<of>.*)\] zeroinitializer, ptr (?P<to>\S+)$", re.M)
_MEMSET = "declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)\n"


def _zero_by_memset(text, size):
    """Numba clears a local array with one store, which LLVM takes apart element by element."""
    return _ZEROED.sub(lambda m: f"call void @llvm.memset.p0.i64(ptr {m['to']}, i8 0, "
                                 f"i64 {int(m['count']) * size(m['of'])}, i1 false)", text)


def prepare(text, kernel, size, offsets, keep_lines):
    """One module of Numba's, as LLVM reads it. `offsets` collects (bytes, alignment) of each shared array, `keep_lines`
    leaves the lines of the source in it."""
    text = _opaque_pointers(text)
    text = re.sub(r"^target (triple|datalayout) = .*$", "", text, flags=re.M)
    if "!dbg" in text:
        text = re.sub(r"^(\s*call|declare) void @\"?llvm\.dbg\..*$", "", text, flags=re.M)
        if not keep_lines:
            text = re.sub(r",? !dbg !\d+", "", text)
            text = re.sub(r"^!llvm\.dbg\.cu =.*$", "", text, flags=re.M)
    text = text.replace("common global ptr null", "internal global ptr null")
    text = re.sub(r"\bi16 0\.0+\b", "i16 0", text)          # Numba's float16 zero
    text = _FAST.sub(r"\1", text)
    text = re.sub(r'"(llvm\.nvvm\.[\w.]+|cudaCG\w+)"', lambda m: f'"{_RENAMED.get(m[1], m[1])}"', text)
    text = re.sub(r'^\s*call void @"emu\.fence"\(\)', "  fence seq_cst", text, flags=re.M)
    text = re.sub(r'^declare void @"emu\.fence"\(\).*$', "", text, flags=re.M)
    text = _inline_ptx(text, kernel)
    text = _zero_by_memset(_hoist_allocas(text), size)
    if "@llvm.memset.p0.i64" in text and "@llvm.memset.p0.i64(ptr, i8" not in text:
        text += _MEMSET
    for m in _SHARED.finditer(text):
        count = int(m["count"])
        offsets[m[1]] = (count and count * size(m["of"]), max(int(m["align"] or 1), 16))
    text = _SHARED.sub("", text)
    text = re.sub(r'addrspacecast ptr addrspace\(3\) (@"[^"]+") to ptr', r"call ptr @emu.shared(ptr \1)", text)
    text = re.sub(r" addrspace\((?!3\))\d+\)", "", text)     # constant memory is ordinary memory of the host
    text = re.sub(r"addrspacecast ptr", "bitcast ptr", text)
    return text


def lay_out(offsets):
    """Byte offset of every static shared array, and their sum; dynamic shared memory (size 0) follows them."""
    place, end = {}, 0
    for name, (size, align) in offsets.items():
        if size:
            end = -(-end // align) * align
            place[name] = end
            end += size
    end = -(-end // 16) * 16
    return {name: place.get(name, end) for name in offsets}, end

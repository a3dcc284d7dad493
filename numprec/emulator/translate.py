"""From the IR that Numba-CUDA compiles a kernel to, to a coroutine for the host.

`translate` works on LLVM IR as text, in two passes. The first makes one function of the kernel and everything it calls,
in which operations of the GPU are calls without a body. On that text, products are fused with the sums they go
into, as the GPU's compiler does; waiting operations become "note what you bring, suspend, fetch the result"; and
questions about the thread get its record as an argument. The second pass adds the bodies of `twins` and
`context.ll`, and LLVM makes a coroutine of it.

The coroutine has LLVM's returned-continuation form (LLVM documentation, "Coroutines in LLVM", section
"Returned-Continuation Lowering"): suspending costs a return and resuming an indirect call.
"""
import re
import struct
from dataclasses import dataclass
from importlib import resources

from numprec.emulator import libdevice, twins
from numprec.emulator.errors import EmulatorError, Unsupported
from numprec.emulator.instrument import instrument, operations
from numprec.emulator.stops import ask_in_loops

RECORD = 64          # bytes of a Thread record, which the coroutine's frame follows
FRAME = 960          # bytes for a frame, not counting the local arrays of the kernel
MAX_LOCAL = 512 * 1024    # bytes of local memory that a card has for a thread


@dataclass(frozen=True)
class Translation:
    """The text of a kernel for the host, and what a launch must know about it."""

    text: str
    symbol: str
    stride: int             # bytes from one thread's record to the next
    shared_bytes: int       # static shared memory
    uses_grid: bool
    uses_warps: bool
    serial: bool            # blocks must run in order: the result of an atomic depends on it
    slots: tuple            # IR types of the flattened arguments
    sites: tuple = ()       # of the instrumented form, see instrument.py; likewise
    shared: tuple = ()      # the arrays in shared memory
    locals: tuple = ()      # and those of each thread
    operations: tuple = ()  # what is computed in each block of instructions


# ---- Numba's text

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


def _size(kind, llvm, machine):
    """Bytes that an element of an array takes: a number, or a record of them."""
    if kind in _SIZES:
        return _SIZES[kind]
    module = llvm.parse_assembly(f"@x = external global {kind}")
    return machine.target_data.get_abi_size(module.get_global_variable("x").global_value_type)


def _types(arguments):
    """The types of `i32 %x, {i32, i1} %y`."""
    return [re.match(r"(\{.*\}|\[.*\]|<.*>|[\w]+)", part.strip())[1] for part in _split(arguments)]


def _split(text):
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
        types = _types(m["args"])
        name = "emu.asm." + "|".join([mnemonic, m["ret"].replace(" ", ""), *types])
        effect = "" if m["effect"] or "memory" in m["constraints"] or "ptr" in types else twins.PURE
        declared[name] = (m["ret"], types, effect)
        return f'call {m["ret"]} @"{name}"({m["args"]})'

    text = _ASM.sub(call, text)
    lines = []
    for name, what in declared.items():
        if not isinstance(what, str):
            ret, types, effect = what
            lines.append(f'declare {ret} @"{name}"({", ".join(types)}) {effect}')
        elif f'declare {what.partition(" ")[0]} @"{name}"' not in text:
            lines.append(f"declare i32 @{name}() {twins.PURE}")
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


def _prepare(text, kernel, size, offsets, keep_lines):
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


def _lay_out(offsets):
    """Byte offset of every static shared array, and their sum; dynamic shared memory (size 0) follows them."""
    place, end = {}, 0
    for name, (size, align) in offsets.items():
        if size:
            end = -(-end // align) * align
            place[name] = end
            end += size
    end = -(-end // 16) * 16
    return {name: place.get(name, end) for name in offsets}, end


# ---- the text of the first pass

_CALL = re.compile(r'(?P<result>%[\w.]+ = )?(?:tail |notail |musttail )?call (?P<ret>[^@(]+?) @"?(?P<name>[^"(]+)"?'
                   r"\((?P<args>.*)\)(?: #\d+)?$")
_BINARY = re.compile(r"^  (?P<result>%[\w.]+) = f(?P<op>add|sub|mul) (?P<type>float|double) (?P<a>\S+), (?P<b>\S+)$")
_NARROW = re.compile(r"^  (?P<result>%[\w.]+) = call i16 @emu\.(?P<fmt>half|bf16)\.(?P<op>add|sub|mul)"
                     r"\(i16 (?P<a>\S+), i16 (?P<b>\S+)\)(?: #\d+)?$")


_NEGATION = re.compile(r"^  (?P<result>%[\w.]+) = (?:fneg \w+ |fsub \w+ -0\.0+e\+00, "
                       r"|call i16 @emu\.(?:half|bf16)\.neg\(i16 )(?P<x>%[\w.]+)")
_LABEL = re.compile(r'^(?:[\w.$-]+|"[^"]*"):')
_VALUE = re.compile(r"%[\w.]+")
_MOST = 4            # uses of a product that NVVM fuses
_INSERT = re.compile(r"^  (?P<result>%[\w.]+) = insertvalue .*[\]}](?: (?P<into>\S+))?, "
                     r"[^,]+ (?P<value>\S+), (?P<index>[\d, ]+)$")
_EXTRACT = re.compile(r"^  (?P<result>%[\w.]+) = extractvalue .* (?P<of>\S+), (?P<index>[\d, ]+)$")


def _unpacked(lines):
    """{element taken out of a tuple: what was put in there}."""
    inserts = {m["result"]: m for m in map(_INSERT.match, lines) if m}
    same = {}
    for m in filter(None, map(_EXTRACT.match, lines)):
        at = inserts.get(m["of"])
        while at and at["index"] != m["index"]:
            at = inserts.get(at["into"])
        if at:
            same[m["result"]] = at["value"]
    return same


def fuse(lines):
    """Fuses products into the sums and differences that use them: a*b + c rounds once, as on a GPU.

    CUDA allows it (CUDA C++ Programming Guide, "Floating-Point Standard"; nvcc -fmad=true) and leaves open which. What
    NVVM and ptxas 12.9 do for sm_75 and sm_90, read from the machine code of some 200 small kernels:

    - A product is fused only where all that uses it is a sum or difference of its own basic block, for then it need not
      be computed. One other use, in a store, a product, `add_rn` or another block, keeps it apart for all of them.
    - NVVM looks at float32 and float64. From the last sum of a block to the first it takes the left operand, else the
      right one, if that is a product of at most four uses, all of them sums: not differences, not sums fused already.
    - Then ptxas, which sees all formats, goes from the first to the last, once for products with one use and once for
      the others; differences count as sums, any number of uses will do, but none that takes the product twice.
    - Which operand is the left one is decided before: LLVM's Reassociate sorts the operands of sums by where in the
      block their values came from, so that a*b + c*d fuses a*b if a and b were loaded first, however it is written.
      InstCombine makes z - x*y of -(x*y) + z, and a division by a power of two a product. `_first_pass` runs both,
      but not for the instrumented form of a kernel, which may differ in these two cases by one rounding.
    - NVVM computes equal products of a block once; Numba's float16 is assembly, which it does not compare.

    Operations written with an explicit rounding (`mul_rn`) are other functions here and stay apart.
    """
    block, where, ops, signs, same, known = 0, {}, {}, {}, {}, {}
    for number, line in enumerate(lines):
        block += bool(_LABEL.match(line))
        where[number] = block
        m = _NEGATION.match(line)
        if m:
            signs[number] = m
            continue
        m = _BINARY.match(line) or _NARROW.match(line)
        if m:
            ops[number] = m
            if m["op"] == "mul" and "fmt" not in m.groupdict():
                first = known.setdefault((block, *sorted((m["a"], m["b"]))), m["result"])
                same[m["result"]] = first, False
    for m in signs.values():
        same[m["result"]] = m["x"], True

    def factor_of(name):
        """(value, whether it is negated): a value without the negations before it; of equal products the first."""
        negative = False
        while name in same and same[name][0] != name:
            name, turned = same[name]
            negative ^= turned
        return name, negative

    products = {m["result"]: number for number, m in ops.items()
                if m["op"] == "mul" and factor_of(m["result"])[0] == m["result"]}
    users = {name: [] for name in products}
    for number, line in enumerate(lines):
        if number in signs or line.partition(" = ")[0].strip() in same.keys() - products.keys():
            continue
        for name in _VALUE.findall(line.partition(" = ")[2] or line):
            name, _ = factor_of(name)
            if name in users:
                users[name].append(number)
    chosen = {}                                     # sum: the side of it that is fused

    def goes(name, only=("add", "sub"), twice=False):
        """Whether all that uses a product is sums of its block that are not fused yet."""
        return all(where[u] == where[products[name]] and u in ops and u not in chosen and ops[u]["op"] in only
                   and (twice or users[name].count(u) == 1) for u in users[name])

    def choose(number, allowed):
        for side in "ab":
            name, _ = factor_of(ops[number][side])
            if name in products and allowed(name):
                chosen[number] = side
                users[name].remove(number)
                return

    sums = [number for number, m in ops.items() if m["op"] != "mul"]
    for number in reversed(sums):
        if ops[number]["op"] == "add" and "fmt" not in ops[number].groupdict():
            choose(number, lambda name: len(users[name]) <= _MOST and goes(name, ("add",), twice=True))
    for single in True, False:
        for number in sums:
            if number not in chosen:
                choose(number, lambda name: (not single or len(users[name]) == 1) and goes(name))

    out = []
    for number, line in enumerate(lines):
        if number not in chosen:
            out.append(line)
            continue
        m, side = ops[number], chosen[number]
        name, negative = factor_of(m[side])
        product = ops[products[name]]
        x, y, z = product["a"], product["b"], m["b" if side == "a" else "a"]
        narrow = "fmt" in m.groupdict()
        kind = "i16" if narrow else m["type"]

        def negation(value, of):
            fresh = f"{m['result']}.{of}"
            out.append(f"  {fresh} = call i16 @emu.{m['fmt']}.neg(i16 {value})" if narrow
                       else f"  {fresh} = fneg {kind} {value}")
            return fresh

        if m["op"] == "sub" and side == "a":
            z = negation(z, "z")                                 # x*y - z
        if negative != (m["op"] == "sub" and side == "b"):       # z - x*y
            x = negation(x, "x")
        target = f"emu.{m['fmt']}.fma" if narrow else f"llvm.fma.{'f32' if kind == 'float' else 'f64'}"
        out.append(f"  {m['result']} = call {kind} @{target}({kind} {x}, {kind} {y}, {kind} {z})")
    return out


_TO_INTEGER = re.compile(r"^  (?P<result>%\S+) = (?P<op>fpto[su]i) (?P<from>float|double) (?P<x>\S+)"
                         r" to i(?P<bits>\d+)$")


_HALF = re.compile(r"^  (?P<result>%[\w.]+) = call i16 @emu\.half\.(?P<op>add|sub|mul|div|fma)\((?P<args>[^)]*)\)")
_HALF_PHI = re.compile(r"^  (?P<result>%[\w.]+) = phi i16 (?P<incoming>.*)$")
_INCOMING = re.compile(r"\[ (\S+), ")


def _half_literal(text):
    """The bits of a float16, an integer in LLVM's text, as a double; undef stays."""
    if not re.fullmatch(r"-?\d+", text):
        return text
    value, = struct.unpack("<e", struct.pack("<h", int(text)))
    return f"0x{struct.unpack('<Q', struct.pack('<d', value))[0]:016X}"


def keep_wide(lines):
    """Keeps a float16 that goes round a loop in a double, rounded to float16 as always: from there to 16 bits and back
    takes longer than an operation does. %x.wide is %x as a double; what is still used of %x itself, LLVM sees.
    """
    phis = {m["result"]: _INCOMING.findall(m["incoming"]) for m in map(_HALF_PHI.match, lines) if m}
    results = {m["result"] for m in map(_HALF.match, lines) if m}
    wide, found = set(), True
    while found:                                             # the phis that a result reaches, directly or by others
        found = {phi for phi, values in phis.items() if phi not in wide and (results | wide).intersection(values)}
        wide |= found
    brought = {value for phi in wide for value in phis[phi]}
    out, after_phis = [], []

    def as_double(value):
        if not value.startswith("%"):
            return _half_literal(value)
        if value in wide or value in brought:
            return f"{value}.wide"
        out.append(f"  %emu.w{len(out)} = call double @emu.half.to_f64(i16 {value})")
        return f"%emu.w{len(out) - 1}"

    for line in lines:
        is_phi = " = phi " in line
        if not is_phi:
            out += after_phis
            after_phis = []
        phi, m = _HALF_PHI.match(line), _HALF.match(line)
        operands = [argument.split()[1] for argument in m["args"].split(", ")] if m else ()
        if phi and phi["result"] in wide:
            incoming = _INCOMING.sub(lambda i: f"[ {as_double(i[1])}, ", phi["incoming"])
            out.append(f"  {phi['result']}.wide = phi double {incoming}")
            after_phis.append(f"  {phi['result']} = call i16 @emu.half.narrow(double {phi['result']}.wide)")
        elif m and (m["result"] in brought or wide.intersection(operands)):
            values = ", ".join([f"double {as_double(operand)}" for operand in operands])
            out += [f"  {m['result']}.wide = call double @emu.half.{m['op']}.wide({values})",
                    f"  {m['result']} = call i16 @emu.half.narrow(double {m['result']}.wide)"]
        else:
            out.append(line)
            name = line.partition(" = ")[0].strip()
            if name in brought:
                (after_phis if is_phi else out).append(f"  {name}.wide = call double @emu.half.to_f64(i16 {name})")
    return out


_SHIFT = re.compile(r"^  (?P<result>%\S+) = (?P<op>shl|lshr|ashr) (?:(?:nuw|nsw|exact) )*i(?P<bits>\d+) (?P<x>\S+), "
                    r"(?P<by>%\S+)$")


def _define(lines):
    """Gives a value, PTX's, to what LLVM leaves undefined.

    Floats become integers as `cvt.rzi` does it: out of range the nearest integer, a NaN 0. There is no `cvt` to 8
    bits; it is done to 16, of which the lower half is kept. Shifts by the width or more shift everything out.
    """
    out = []
    for line in lines:
        m = _SHIFT.match(line)
        if m:
            r, kind, last = m["result"], f"i{m['bits']}", int(m["bits"]) - 1
            out.append(f"  {r}.by = call {kind} @llvm.umin.{kind}({kind} {m['by']}, {kind} {last})")
            if m["op"] == "ashr":
                out.append(f"  {r} = ashr {kind} {m['x']}, {r}.by")
            else:
                out += [f"  {r}.in = {m['op']} {kind} {m['x']}, {r}.by",
                        f"  {r}.all = icmp ugt {kind} {m['by']}, {last}",
                        f"  {r} = select i1 {r}.all, {kind} 0, {kind} {r}.in"]
            continue
        m = _TO_INTEGER.match(line)
        if not m:
            out.append(line)
            continue
        suffix, bits = "f32" if m["from"] == "float" else "f64", max(int(m["bits"]), 16)
        wide = m["result"] if bits == int(m["bits"]) else f"{m['result']}.wide"
        out.append(f"  {wide} = call i{bits} @llvm.{m['op']}.sat.i{bits}.{suffix}({m['from']} {m['x']})")
        if wide != m["result"]:
            out.append(f"  {m['result']} = trunc i{bits} {wide} to i{m['bits']}")
    return out


def _expand(lines, offsets):
    """Gives the thread's record to the operations that need it, and makes waiting operations suspend."""
    out, count = [], 0
    for line in lines:
        m = _CALL.search(line) if "@" in line else None
        name = m["name"] if m else ""
        head = line[:m.start()] if m else ""
        result = (m["result"] or "") if m else ""
        if name == "emu.shared":
            place = offsets[re.search(r'@"?([^"]+)"?$', m["args"])[1]]
            out.append(f"{head}{result}call ptr @emu.ctx.shared(ptr %ctx, i64 {place})")
        elif name.startswith("emu.ctx."):
            out.append(f"{head}{result}call {m['ret']} @{name}(ptr %ctx)")
        elif name.startswith("emu.sync."):
            kind, args = name.removeprefix("emu.sync."), _split(m["args"])
            take = None
            if kind == "barrier":
                post = "@emu.post.barrier(ptr %ctx)"
            elif kind.startswith("barrier."):
                post, take = f"@emu.post.barrier.pred(ptr %ctx, {args[0]})", f"i32 @emu.take.{kind}(ptr %ctx)"
            elif kind == "grid":
                post, take = "@emu.post.grid(ptr %ctx)", None
            elif kind == "warp":
                post = f"@emu.post.warp(ptr %ctx, {args[0]}, i64 0)"
            else:
                value = args[2] if kind in ("shfl", "vote") else args[1]
                word, _, operand = value.partition(" ")
                if word != "i64":
                    out.append(f"  %emu.v{count} = zext {word} {operand} to i64")
                    operand = f"%emu.v{count}"
                post = f"@emu.post.warp(ptr %ctx, {args[0]}, i64 {operand})"
                if kind == "shfl":
                    take = f"{{ i32, i1 }} @emu.take.shfl(ptr %ctx, {args[1]}, {args[3]}, {args[4]})"
                elif kind == "vote":
                    take = f"{{ i32, i1 }} @emu.take.vote(ptr %ctx, {args[1]})"
                elif kind.startswith("match.any"):
                    take = "i32 @emu.take.match.any(ptr %ctx)"
                else:
                    take = "{ i32, i1 } @emu.take.match.all(ptr %ctx)"
            out.append(f"  call void {post}")
            out.append(f"  %emu.u{count} = call i1 (...) @llvm.coro.suspend.retcon.i1()")
            if take:
                out.append(f"  {result}call {take}")
            elif result:
                out.append(f"  {result}or i32 0, 0")
            count += 1
        elif name == "emu.ended":
            out.append(f"{head}call void @emu.note.ended(ptr %ctx, {m['args']})")
        elif name == "emu.grid.handle":
            out.append(f"  {result}or i64 1, 0")
        else:
            out.append(line)
    return out


def _is_serial(lines):
    """Whether what the kernel computes depends on the order of its blocks: it adds floats atomically, or uses what an
    atomic returns."""
    text = "\n".join(lines)
    for line in lines:
        if "cmpxchg" in line or "@___numba_atomic_" in line:
            return True
        m = re.match(r"\s*(%[\w.]+) = atomicrmw (?:volatile )?(\w+)", line)
        if m and (m[2] in ("xchg", "fadd", "fsub") or len(re.findall(re.escape(m[1]) + r"\b", text)) > 1):
            return True
    return False


_COROUTINE = """
declare token @llvm.coro.id.retcon(i32, i32, ptr, ptr, ptr, ptr)
declare ptr @llvm.coro.begin(token, ptr)
declare {end} @llvm.coro.end(ptr, i1, token)
declare i1 @llvm.coro.suspend.retcon.i1(...)
declare ptr @emu_prototype(ptr, i1)
declare ptr @numprec_malloc(i64)
declare void @numprec_free(ptr)

define ptr @{symbol}(ptr %frame, i1 zeroext %unwind) presplitcoroutine {{
  %ctx = getelementptr i8, ptr %frame, i64 -{record}
  %id = call token @llvm.coro.id.retcon(i32 {capacity}, i32 16, ptr %frame,
                                        ptr @emu_prototype, ptr @numprec_malloc, ptr @numprec_free)
  %handle = call ptr @llvm.coro.begin(token %id, ptr null)
  call void @emu.body(ptr %ctx)
  {assign}call {end} @llvm.coro.end(ptr %handle, i1 false, token none)
  unreachable
}}
"""


def _wrapper(entry, types, debug):
    """A function of the thread's record that fetches the arguments and calls the kernel; with `debug` it tells how that
    ended."""
    lines = [f'declare i32 @"{entry}"({", ".join(["ptr", *types])})',
             f"declare ptr @emu.ctx.args() {twins.PURE}",
             "define void @emu.body(ptr %ctx) {", "  %status = alloca ptr", "  %args = call ptr @emu.ctx.args()"]
    for i, kind in enumerate(types):
        lines += [f"  %slot{i} = getelementptr i8, ptr %args, i64 {8 * i}",
                  f"  %v{i} = load {kind}, ptr %slot{i}, align 8, !invariant.load !0"]
    values = ", ".join(f"{kind} %v{i}" for i, kind in enumerate(types))
    lines.append(f'  %s = call i32 @"{entry}"(ptr %status{", " if values else ""}{values})')
    if debug:
        lines.append("  call void @emu.ended(i32 %s)")
    lines += ["  ret void", "}", *(["declare void @emu.ended(i32)"] if debug else []), "!0 = !{}"]
    return "\n".join(lines) + "\n"


def _declare_missing(text):
    """`emu.ctx` and `emu.sync` operations as the first pass sees them: who asks about the thread changes nothing."""
    text = re.sub(r'^(declare .* @"?emu\.ctx\.[\w.]+"?\(.*\))\s*$', rf"\1 {twins.PURE}", text, flags=re.M)
    # two barriers in two branches are two, which a sanitizer can tell
    return re.sub(r'^(declare .* @"?emu\.sync\.[\w.]+"?\(.*\))\s*$', r"\1 convergent nomerge", text, flags=re.M)


def _plain_names(text):
    """Gives values with quoted names (`%"\\CE\\B1.2"`) plain ones, which is all that the patterns here know."""
    names = {}
    return re.sub(r'%"[^"]*"', lambda m: names.setdefault(m[0], f"%quoted.{len(names)}"), text)


def _library(modules):
    """LLVM's text of NVIDIA's functions that the modules call. Those of fastmath are the exact ones."""
    declared = {m["name"]: m for text in modules for m in _DECLARE.finditer(text)}
    exact = {name: name.replace("__nv_fast_", "__nv_") for name in declared}
    called = sorted({name for name in exact.values() if twins.in_library(name)})
    text = libdevice.module(called, lambda name: twins.definition(name, "float", ["float"]) is not None)
    text = re.sub(r"^declare .* @emu\.nvvm\..*$", lambda m: f"{m[0]} {twins.PURE}", text, flags=re.M)
    for name, other in exact.items():
        if name != other and f"@{other}(" in text:
            types = _types(declared[name]["args"])
            names = ", ".join(f"{kind} %a{i}" for i, kind in enumerate(types))
            text += (f"define {types[0]} @{name}({names}) {{\n  %r = call {types[0]} @{other}({names})\n"
                     f"  ret {types[0]} %r\n}}\n")
    return text


def _first_pass(modules, entry, llvm, machine, instrumented, debug):
    """Links the modules, inlines everything into @emu.body, and returns the text."""
    signature = re.search(rf'define \S*\s?i32 @"{re.escape(entry)}"\((.*)\)', modules[0])[1]
    types = _types(signature)[1:]
    pure = f"declare ptr @emu.shared(ptr) {twins.PURE}\n"
    shims = _resolve("\n".join(modules), lambda name, ret, args: twins.shim(name, args))
    shims = shims.replace("define internal", "define")      # they are called from other modules
    library = _library(modules)
    linked = None
    for text in filter(None, [_wrapper(entry, types, debug) + twins.PRIMITIVES + shims, library, *modules]):
        if "@emu.shared(" in text:
            text += pure
        module = llvm.parse_assembly(_declare_missing(text))
        linked = module if linked is None else (linked.link_in(module) or linked)
    for function in linked.functions:
        if not function.is_declaration and function.name != "emu.body":
            function.linkage = "internal"
            function.add_function_attribute("alwaysinline")
    options = llvm.create_pipeline_tuning_options(speed_level=0)
    builder = llvm.create_pass_builder(machine, options)
    passes = llvm.create_new_module_pass_manager()
    passes.add_always_inliner_pass()
    passes.add_sroa_pass()
    passes.add_sccp_pass()
    passes.add_simplify_cfg_pass()
    if not instrumented:                         # which names arrays by the text as Numba wrote it
        passes.add_instruction_combine_pass()
        passes.add_reassociate_pass()
        passes.add_instruction_combine_pass()
        passes.add_simplify_cfg_pass()
    passes.add_dead_code_elimination_pass()
    passes.add_global_dead_code_eliminate_pass()
    passes.add_instruction_namer_pass()          # the new values; the patterns here do not know numbers
    passes.run(linked, builder)
    return _plain_names(str(linked)), types


_WORDS = {"vprintf": "print (vprintf)"}        # what a kernel's author calls an operation


def recursion(kernel, function):
    return f"kernel {kernel}: the emulator cannot run {function}, which calls itself: write it as a loop"


def _plain(mangled):
    """The name of a function in Numba's mangled name: _ZN8__main__5steps... -> steps."""
    rest, name = mangled.removeprefix("_ZN"), mangled
    while m := re.match(r"\d+", rest):
        name, rest = rest[m.end():m.end() + int(m[0])], rest[m.end() + int(m[0]):]
    return name


_DECLARE = re.compile(r'^declare (?P<ret>[^@]+?) @"?(?P<name>[^"(]+)"?\((?P<args>[^)]*)\).*$', re.M)


def _resolve(text, define):
    """Definitions, by `define(name, ret, arg types)`, of what `text` declares and does not define."""
    defined = set(re.findall(r'^define [^@]*@"?([^"(]+)"?\(', text, flags=re.M))
    found = {}
    for m in _DECLARE.finditer(text):
        if m["name"] not in defined and m["name"] not in found:
            ret = re.sub(r"\b(noundef|nonnull|zeroext|signext)\b ?", "", m["ret"]).strip()
            body = define(m["name"], ret, _types(m["args"]))
            if body:
                found[m["name"]] = body
    return "\n".join(found.values())


def lowered(modules, entry, kernel, llvm, machine, instrumented=False, debug=False):
    """A kernel and all it calls as one function: (its lines, the text around it, types of its arguments, {shared array:
    its place}, {shared array: its size and alignment}, bytes of shared memory, bytes of local memory)."""
    shared = {}

    def size(kind):
        return _size(kind, llvm, machine)

    modules = [_prepare(text, kernel, size, shared, instrumented) for text in modules]
    offsets, shared_bytes = _lay_out(shared)
    # until the second pass a shared array is an external variable of no particular type
    stubs = "".join(f"{name} = external global i8\n" for name in shared)
    modules = [stubs + text if stubs and any(name in text for name in shared) else text for text in modules]
    text, types = _first_pass(modules, entry, llvm, machine, instrumented, debug)

    start = text.index("define void @emu.body(")
    end = text.index("\n}\n", start)
    body = text[start:end].split("\n")
    again = re.search(r' call [^@\n]*@"?(_ZN[^"(]+)', text[start:end])
    if again:                      # everything else has been inlined
        raise Unsupported(recursion(kernel, f"the function {_plain(again[1])}"))
    rest = text[:start] + text[end + 3:]
    locals_bytes = sum(int(m[1]) * size(m[2]) for m in
                       re.finditer(r"^  %\S+ = alloca \[(\d+) x (.*)\], align", text[start:end], re.M))
    if locals_bytes > MAX_LOCAL:
        raise EmulatorError(f"kernel {kernel}: {locals_bytes} bytes of local arrays; a card has {MAX_LOCAL} "
                            "for a thread")
    return body, rest, types, offsets, shared, shared_bytes, locals_bytes


def translate(modules, entry, kernel, symbol, llvm, machine, half_in_hardware, arguments=None, debug=False):
    """The host's form of a kernel.

    `modules` is Numba's IR, `entry` the mangled name of the kernel in it, `kernel` its name for messages, `symbol`
    the name the coroutine gets, `llvm` is llvmlite.binding, `machine` the target machine. `arguments`, {slot of a data
    pointer: index of its array}, asks for the instrumented form; `debug` says that exceptions of threads are told.
    Raises Unsupported, a NotImplementedError that names the operation and the kernel.
    """
    body, rest, types, offsets, shared, shared_bytes, locals_bytes = lowered(
        modules, entry, kernel, llvm, machine, arguments is not None, debug)

    def size(kind):
        return _size(kind, llvm, machine)

    places = {name.strip('@"'): place for name, place in offsets.items()}
    sites = shared_arrays = locals_ = mix = ()
    if arguments is None:
        body = keep_wide(fuse(_define(body)))
        body = ask_in_loops(body, _unpacked(body))
    else:
        sizes = {name.strip('@"'): (places[name.strip('@"')], size_) for name, (size_, _) in shared.items()}
        body, sites, shared_arrays, locals_ = instrument(body, rest, _unpacked, arguments, sizes, size)
        used = set(re.findall(r"!\d+", "\n".join(body)))
        rest = re.sub(r"^(!\S+) = .*$", lambda m: m[0] if m[1] in used else "", rest, flags=re.M)
        body = fuse(_define(body))
        mix = operations(body, rest, llvm, machine)
        body = keep_wide(body)
    serial = _is_serial(body)
    body = _expand(body, places)
    body[0] = "define internal void @emu.body(ptr %ctx) alwaysinline {"
    body_text = "\n".join(body) + "\n}\n"

    files = ["context.ll"] if arguments is None else ["context.ll", "events.ll", "listen.ll"]
    context = "".join(resources.files("numprec.emulator").joinpath(name).read_text() for name in files)
    support = context + twins.halves(half_in_hardware)
    have = set(re.findall(r'^(?:define|declare) [^@]*@"?([^"(]+)"?\(', support, flags=re.M))
    wanted, missing, seen = [], [], set(have)

    def settle(declarations):
        for m in _DECLARE.finditer(declarations):
            name = m["name"]
            if name in seen or name.startswith(("emu.ctx.", "emu.sync.", "emu.shared", "emu.grid", "emu.ended")):
                continue
            seen.add(name)
            if name.startswith("llvm.nvvm."):
                missing.append(name)
            elif name.startswith("llvm.") or name in twins.LIBM_NAMES:
                wanted.append(m[0] if name not in twins.LIBM_NAMES else re.sub(r" #\d+$", "", m[0]))
            else:
                ret = re.sub(r"\b(noundef|nonnull|zeroext|signext)\b ?", "", m["ret"]).strip()
                args = _types(re.sub(r"\b(noundef|nocapture|nonnull|captures\(none\)) ?", "", m["args"]))
                twin = twins.definition(name.partition("|")[0], ret, args)
                if twin is None:
                    missing.append(name)
                    continue
                declared = [d[0] for d in _DECLARE.finditer(twin)]
                twin = _DECLARE.sub("", twin).replace(f'@"{name.partition("|")[0]}"', f'@"{name}"')
                wanted.append(twin)
                settle("\n".join(declared))

    settle(rest)
    # those that the twins call
    for name in sorted(set(re.findall(r"@(emu\.(?:half|bf16)\.\w+\.rn)\b", "".join(wanted))) - seen):
        wanted.append(twins.definition(name, "i16", ["i16", "i16"]))
    if missing:
        names = ", ".join(sorted(_WORDS.get(n, n.removeprefix("emu.asm.").partition("|")[0]) for n in missing))
        raise Unsupported(f"kernel {kernel}: the emulator has no host twin for {names}")

    globals_text = "\n".join(line for line in rest.split("\n")
                             if line.startswith(("@", "attributes", "!", "%")) and "external global" not in line)
    capacity = -(-(FRAME + locals_bytes) // 64) * 64
    void_end = llvm.llvm_version_info[0] >= 22
    coroutine = _COROUTINE.format(symbol=symbol, record=RECORD, capacity=capacity,
                                  end="void" if void_end else "i1", assign="" if void_end else "%ended = ")
    return Translation(
        text="\n".join([globals_text, body_text, support, *wanted, coroutine]),
        symbol=symbol, stride=RECORD + capacity, shared_bytes=shared_bytes,
        uses_grid="@emu.post.grid" in body_text, uses_warps="@emu.post.warp" in body_text,
        serial=serial, slots=tuple(types), sites=tuple(sites), shared=tuple(shared_arrays), locals=tuple(locals_),
        operations=tuple(mix))

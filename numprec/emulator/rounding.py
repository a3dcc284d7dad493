"""Rewrites the text of a kernel so that it rounds as a GPU does: products are fused with the sums they go into, as
NVIDIA's compilers fuse them, float16 sums are kept in a wide format between roundings, and what LLVM leaves undefined
gets PTX's value.

All of it works on the text of a kernel's one function, a line an item, see `translate`.
"""
import re
import struct

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


def unpacked(lines):
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


def define(lines):
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

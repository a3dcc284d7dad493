"""The instrumented form of a kernel: it reports each access to a listener before it happens, and each wait.

`instrument` works on the text of translate's first pass, in which a kernel and all that it calls are one function. Each
place in that text is a *site*: a load, a store, an atomic, a wait, or the head of a loop, with the line of the source
that it comes from and, where the pointer can be traced back to one, the array that it means. What the calls inserted
here do stands in listen.ll; who listens, in listening.py.

An access outside its array is reported and then done to a scratch place instead, so that the kernel can go on and the
host's memory stays whole. A loop that may last counts its rounds and ends the thread beyond a limit.
"""
import functools
import linecache
import re
from collections import Counter
from typing import NamedTuple

from numprec.emulator.reading import types_of
from numprec.emulator.stops import lasting_loops

LOAD, STORE, ATOMIC, BARRIER, WARP, VOTE, GRID, LOOP = range(8)     # kinds of sites
GLOBAL, SHARED, LOCAL, ANYWHERE = range(4)                           # spaces; ANYWHERE: the pointer tells no array


class Site(NamedTuple):
    """A place in a kernel's text that reports. Plain values, as it is kept as JSON beside the code."""

    kind: int
    space: int
    array: int           # index of the argument, shared or local array in the list of its space, or -1
    bytes: int           # of the access
    align: int           # what its address has to be a multiple of
    line: int            # of the source, 0 where it is not known
    file: str


class Array(NamedTuple):
    """An array that a kernel declares: its name in the source, elements, their bytes, and where in shared memory."""

    name: str
    shape: tuple
    itemsize: int
    bytes: int           # 0: dynamic shared memory, as much as the launch gives
    offset: int


_ACCESS = re.compile(
    r"^  (?:(?P<result>%\S+) = )?(?:(?P<load>load)(?: atomic)?(?: volatile)? (?P<of>.+?)"
    r"|(?P<store>store)(?: atomic)?(?: volatile)? (?P<what>.+?)"
    r"|(?P<rmw>atomicrmw|cmpxchg)(?: weak)?(?: volatile)?(?: \w+)?), ?ptr (?P<p>%[\w.]+)(?P<rest>,.*|)$")
_RMW = re.compile(r"^  (?:%\S+ = )?(?:atomicrmw(?: volatile)? \w+|cmpxchg(?: weak)?(?: volatile)?) ptr (?P<p>%[\w.]+), "
                  r"(?P<type>\w+) ")
_ATOMIC_CALL = re.compile(r'^  (?:%\S+ = )?(?:tail )?call (?P<type>\w+) @"?___numba_atomic_\w+"?\(ptr (?:\w+ )*'
                          r"(?P<p>%[\w.]+)[,)]")
_ASM_CALL = re.compile(r'^  (?:%\S+ = )?(?:tail )?call (?P<type>\w+) @"emu\.asm\.(?P<op>ld|st)[^"]*"\(ptr (?:\w+ )*'
                       r"(?P<p>%[\w.]+)(?:, (?P<value>\w+) )?")
_WAIT = re.compile(r'^  (?:%\S+ = )?(?:tail )?call [^@]+@"?emu\.sync\.(?P<kind>[\w.]+)"?\(')
_DEBUG = re.compile(r", !dbg !(\d+)")
_LABEL = re.compile(r'^(?P<name>[\w.$-]+):')
_PHI = re.compile(r"^  %\S+ = phi ")


def _definitions(lines):
    return {line[2:line.index(" = ")]: line[line.index(" = ") + 3:] for line in lines if line.startswith("  %")
            and " = " in line}


class _Origins:
    """Traces pointers back to the argument, shared or local array that they lead into."""

    def __init__(self, lines, unpacked):
        self.defined, self.unpacked, self.known = _definitions(lines), unpacked, {}

    def of(self, name):
        """("argument", slot) | ("shared", global's name) | ("local", alloca), or None where there are several."""
        if name not in self.known:
            self.known[name] = ()                      # a cycle, through a phi, adds nothing
            found = set(self._leads_to(name))
            self.known[name] = found if len(found) < 2 else {None}
        return self.known[name]

    def index(self, pointer, array):
        """(type, base, index) where a pointer is one index away from the beginning of a local array, or None."""
        m = re.match(r"getelementptr (?:[a-z]+ )*(\w+), ptr (%[\w.]+), i64 ([^\s,]+)$", self.defined.get(pointer, ""))
        base = m and m[2]
        while base and base != array:
            of = re.match(r"(?:bitcast|freeze) ptr (%[\w.]+)", self.defined.get(base, ""))
            base = self.unpacked.get(base) or (of and of[1])
        return (m[1], m[2], m[3]) if base else None

    def _leads_to(self, name):
        if name in self.unpacked:
            return self.of(self.unpacked[name])
        text = self.defined.get(name, "")
        if m := re.match(r"load ptr, ptr %slot(\d+),", text):
            return {("argument", int(m[1]))}
        if m := re.match(r'call ptr @emu\.shared\(ptr (@\S+)\)', text):
            return {("shared", m[1])}
        if text.startswith("alloca "):
            return {("local", name)}
        if m := re.match(r"(?:getelementptr [^,]*, ptr|(?:bitcast|freeze|ptrtoint) ptr|inttoptr i64) (%[\w.]+)", text):
            return self.of(m[1])
        if m := re.match(r"phi (?:ptr|i64) (.*)", text):
            return set().union(*(self.of(n) for n in re.findall(r"\[ (%[\w.]+),", m[1])))
        if m := re.match(r"select i1 \S+, (?:ptr|i64) (\S+), (?:ptr|i64) ([^\s,]+)", text):
            return set(self.of(m[1])) | set(self.of(m[2]))
        if m := re.match(r"(?:add|sub|or) [\w ]*?i64 (\S+), ([^\s,]+)", text):
            return set(self.of(m[1])) | set(self.of(m[2]))      # of a sum of an address and an offset, one leads back
        return {None} if text.startswith(("load ptr", "call ptr")) else ()


def _debug_lines(rest):
    """{number of a debug location: (line, file)}, from the metadata of a module's text."""
    nodes = dict(re.findall(r"^!(\d+) = (?:distinct )?(!DI\w+\(.*\))$", rest, flags=re.M))

    @functools.cache
    def file_of(scope):
        text = nodes.get(scope, "")
        name = re.search(r'!DIFile\(filename: "(.*?)"(?:, directory: "(.*?)")?', text)
        if name:
            return f"{name[2]}/{name[1]}" if name[2] and not name[1].startswith("/") else name[1]
        further = re.search(r"\bfile: !(\d+)", text) or re.search(r"\bscope: !(\d+)", text)
        return file_of(further[1]) if further else ""

    found = {}
    for number, text in nodes.items():
        m = re.match(r"!DILocation\(line: (\d+),.*?scope: !(\d+)", text)
        if m:
            found[number] = int(m[1]), file_of(m[2])
    return found


def _declared_at(file, line):
    """The name that a line of the source gives to a shared or local array, or ""."""
    m = re.match(r"\s*(\w+) = .*\b(?:shared|local)\.array\(", linecache.getline(file, line))
    return m[1] if m else ""


def _shape_of(pointer, lines):
    """The shape of the Numba array that is built around a pointer, or ()."""
    held, shape = None, {}
    for line in lines:
        m = re.match(r"^  (%\S+) = insertvalue .*[\]}](?: (\S+))?, (ptr|i64) (\S+), ([\d, ]+)$", line)
        if not m:
            continue
        if m[3] == "ptr" and m[4] == pointer and m[5] == "4":
            held = m[1]
        elif held and m[2] == held and m[3] == "i64":
            held = m[1]
            axis = re.fullmatch(r"5, (\d+)", m[5])
            if axis and m[4].isdigit():
                shape[int(axis[1])] = int(m[4])
    return tuple(shape[i] for i in range(len(shape))) if sorted(shape) == list(range(len(shape))) else ()


def instrument(lines, rest, unpacked, arguments, shared, size):
    """The body's lines with the reports in them, its Sites, and the shared and local Arrays.

    `rest` is the other text of the module, with its debug locations; `unpacked(lines)` follows values through tuples;
    `arguments` maps a slot of the flattened arguments to the index of the array whose data pointer it is; `shared` is
    {global's name: (offset, bytes)}; `size(type)` gives the bytes of a type.
    """
    places = _debug_lines(rest)
    where, plain = [], []
    for line in lines:
        m = _DEBUG.search(line)
        where.append(places.get(m[1], (0, "")) if m else (0, ""))
        plain.append(_DEBUG.sub("", line))
    same = unpacked(plain)
    origins = _Origins(plain, same)
    sites, arrays, known = [], {SHARED: [], LOCAL: []}, {}
    out, count = [], 0

    def declared(space, key, at, line):
        """Index of a shared or local array."""
        if (space, key) not in known:
            known[space, key] = len(arrays[space])
            if space == SHARED:
                offset, length = shared[key.strip('@"')]
                pointer = line.partition(" = ")[0].strip()
                shape = _shape_of(pointer, plain)
            else:
                of = re.match(r"alloca \[(\d+) x (.*)\], align", origins.defined[key])
                offset, length, shape = 0, int(of[1]) * size(of[2]), (int(of[1]),)
                whole = re.compile(rf"{re.escape(key)}(?![\w.])")     # the declaration is among the lines that name it
                at = next((w for text, w in zip(plain, where) if whole.search(text) and _declared_at(w[1], w[0])), at)
            arrays[space].append(Array(_declared_at(at[1], at[0]), shape, 0, length, offset))
        return known[space, key]

    for line, at in zip(plain, where):
        m = re.match(r"^  %\S+ = call ptr @emu\.shared\(ptr (@\S+)\)", line)
        if m:
            declared(SHARED, m[1], at, line)

    def site(kind, at, space=ANYWHERE, array=-1, length=0, align=1):
        sites.append(Site(kind, space, array, length, align, *at))
        return len(sites) - 1

    def access(line, at, kind, pointer, of):
        """Reports an access of a type, and lets it go where the listener says."""
        nonlocal count
        length, align = size(of), max(size(word) for word in re.findall(r"\b(?:i\d+|half|float|double|ptr)\b", of))
        found = origins.of(pointer)
        origin = next(iter(found)) if len(found) == 1 else None
        fresh = f"%emu.safe{count}"
        if origin and origin[0] == "local":
            of = re.match(r"alloca \[\d+ x ", origins.defined[origin[1]])
            if not of:
                return line                              # a variable of Numba's own, not an array
            array = declared(LOCAL, origin[1], at, line)
            number = site(kind, at, LOCAL, array, length, align)
            if indexed := origins.index(pointer, origin[1]):
                return element(line, pointer, number, *indexed, arrays[LOCAL][array].bytes)
            call = f"local(ptr %ctx, ptr {pointer}, i32 {number}, i64 {length}, ptr {origin[1]}, i64 " \
                   f"{arrays[LOCAL][array].bytes})"
        elif origin and origin[0] == "shared":
            array = known[SHARED, origin[1]]
            number = site(kind, at, SHARED, array, length, align)
            whole = arrays[SHARED][array]
            call = f"shared(ptr %ctx, ptr {pointer}, i32 {number}, i64 {length}, i64 {whole.offset}, i64 {whole.bytes})"
        elif origin and origin[0] == "argument" and origin[1] in arguments:
            array = arguments[origin[1]]
            number = site(kind, at, GLOBAL, array, length, align)
            call = f"global(ptr %ctx, ptr {pointer}, i32 {number}, i64 {length}, i32 {array})"
        else:
            number = site(kind, at, ANYWHERE, -1, length, align)
            call = f"anywhere(ptr %ctx, ptr {pointer}, i32 {number}, i64 {length})"
        count += 1
        out.append(f"  {fresh} = call ptr @emu.note.{call}")
        return re.sub(rf"ptr ((?:\w+ )*){re.escape(pointer)}(?![\w.])", rf"ptr \g<1>{fresh}", line, count=1)

    def element(line, pointer, number, of, base, index, length):
        """An element of a local array. Its index is made safe, not its address: where the compiler unrolls the loop and
        knows the index, nothing is left of this, and the array can live in registers."""
        nonlocal count
        safe, count = f"%emu.safe{count}", count + 1
        out.extend([f"  {safe}.at = call i64 @emu.note.index(ptr %ctx, i64 {index}, i32 {number}, "
                    f"i64 {length // size(of)}, i64 {size(of)})",
                    f"  {safe} = getelementptr {of}, ptr {base}, i64 {safe}.at"])
        return re.sub(rf"ptr {re.escape(pointer)}(?![\w.])", f"ptr {safe}", line, count=1)

    for line, at in zip(plain, where):
        if "!invariant.load" in line:
            pass
        elif m := _RMW.match(line) or _ATOMIC_CALL.match(line):
            line = access(line, at, ATOMIC, m["p"], m["type"])
        elif m := _ASM_CALL.match(line):
            line = access(line, at, *((LOAD, m["p"], m["type"]) if m["op"] == "ld" else (STORE, m["p"], m["value"])))
        elif m := _ACCESS.match(line):
            if m["load"]:
                line = access(line, at, LOAD, m["p"], m["of"])
            elif m["store"]:
                kind = re.match(r"(\{.*?\}|\[.*?\]|<.*?>|\w+)", m["what"])[1]
                line = access(line, at, STORE, m["p"], kind)
        elif m := _WAIT.match(line):
            kind = m["kind"]
            number = site(BARRIER if kind.startswith("barrier") else GRID if kind == "grid" else
                          WARP if kind == "warp" else VOTE, at)
            out.append(f"  call void @emu.note.wait(ptr %ctx, i32 {number})")
        out.append(line)
    arrays = {space: [a._replace(itemsize=_itemsize(sites, space, i)) for i, a in enumerate(found)]
              for space, found in arrays.items()}
    return _counted(out, plain, where, sites, same), sites, arrays[SHARED], arrays[LOCAL]


def _itemsize(sites, space, index):
    return min((s.bytes for s in sites if (s.space, s.array) == (space, index)), default=1)


def _counted(lines, plain, where, sites, same):
    """Counts how often each block of instructions runs, and the rounds of each loop that may last: beyond the limit the
    thread returns. A loop that counts is not unrolled. Its head is split behind its phis, so that what comes from it
    comes from the second half."""
    places = {}
    for line, at in zip(plain, where):
        if at[0]:
            places.setdefault(line, at)
    heads = lasting_loops(lines, same)
    out, label, blocks = [], "", 0
    for number, line in enumerate(lines[1:], 1):
        if label is not None and line.strip() and not _PHI.match(line) and not _LABEL.match(line):
            if label in heads:
                place = next((places[other] for other in lines[number:] if other in places), (0, ""))
                sites.append(Site(LOOP, ANYWHERE, -1, 0, 1, *place))       # the head of a loop may come from no line
                out += [f"  %{label}.over = call i1 @emu.note.round(ptr %ctx, i32 {len(sites) - 1})",
                        f"  br i1 %{label}.over, label %emu.given.up, label %{label}.rest", "", f"{label}.rest:"]
            out.append(f"  call void @emu.note.block(ptr %ctx, i32 {blocks})")
            blocks, label = blocks + 1, None
        if m := _LABEL.match(line):
            label = m["name"]
        elif _PHI.match(line):
            line = re.sub(r", %([\w.$-]+) \]", lambda m: f", %{m[1]}.rest ]" if m[1] in heads else m[0], line)
        out.append(line)
    end = max(i for i, line in enumerate(out) if line.strip()) + 1
    return [lines[0], *out[:end], *(["", "emu.given.up:", "  ret void"] if heads else [])]


# ---- operations

_BLOCK = re.compile(r"^  (?:tail )?call void @emu\.note\.block\(ptr %ctx, i32 (\d+)\)")
_NOTE = re.compile(r"^  (%emu\.safe\d+) = call ptr @emu\.note\.\w+\(ptr %ctx, ptr (%[\w.]+),.*\n", re.M)
_INDEX = re.compile(r"call i64 @emu\.note\.index\(ptr %ctx, i64 ([^\s,]+),.*\)$", re.M)
_ROUND = re.compile(r"call i1 @emu\.note\.round\(.*\)$", re.M)
_FLOATS = {"float": "fp32", "double": "fp64", "f32": "fp32", "f64": "fp64", "f": "fp32", "d": "fp64", "half": "fp16",
           "f16": "fp16", "bf16": "bf16"}
_PACKED = re.compile(r"@\"?emu\.asm\.(fma|add|sub|mul)(?:\.rn)?\.f16x2\b")      # two numbers at once
_OPERATIONS = (
    (re.compile(r" = (?:tail )?call \w+ @llvm\.fma\.(f32|f64)\("), "fma"),
    (re.compile(r"@\"?emu\.(half|bf16)\.fma\b"), "fma"),
    (re.compile(r"@\"?emu\.(half|bf16)\.(?:add|sub)\b"), "add"),
    (re.compile(r"@\"?emu\.(half|bf16)\.mul\b"), "mul"),
    (re.compile(r"@\"?emu\.(half|bf16)\.div\b"), "special"),
    (re.compile(r"@\"?emu\.(?:asm|nvvm)\.fma\.r[nmpz]\.(f16|f32|f64|f|d)\b"), "fma"),
    (re.compile(r"@\"?emu\.(?:asm|nvvm)\.(?:add|sub)\.rn\.(f16|f32|f64|f|d)\b"), "add"),
    (re.compile(r"@\"?emu\.(?:asm|nvvm)\.mul\.rn\.(f16|f32|f64|f|d)\b"), "mul"),
    (re.compile(r" call (float|double) @\"?emu\.nvvm\.(?:ex2|lg2|rcp|rsqrt|sqrt|sin|cos)"), "special"),
    (re.compile(r" = f(?:add|sub) (float|double) "), "add"),
    (re.compile(r" = fmul (float|double) "), "mul"),
    (re.compile(r" = f(?:div|rem) (float|double) "), "special"),
    (re.compile(r" = (?:tail )?call (float|double) @\"?"
                r"(?:__nv_(?!fabs|fmax|fmin)|llvm\.(?:sqrt|exp|log|sin|cos|tanh|pow))"),
     "special"),      # a magnitude and the larger of two are no arithmetic, no more than a comparison is
)
_CONVERSION = re.compile(r" = (?:fpext|fptrunc|[su]itofp|fpto[su]i) |@\"?emu\.(?:asm\.cvt|(?:half|bf16)\.(?:to|from)_)")
_OF_FLOATS = re.compile(r" = (?:fpext|fptrunc) |@\"?emu\.asm\.cvt\.(?:r[nmpz]\.)?(?:b?f\d\d\.b?f\d\d)\b")
_INTEGER = re.compile(r" = (?:add|sub|mul|shl|lshr|ashr|and|or|xor|[us]div|[us]rem|icmp|select|getelementptr) ")


def operations(lines, rest, llvm, machine):
    """For each block of an instrumented body, {what: how often a thread does it there}: "fp32 fma", "fp16 add", ...,
    "conversion", "integer".

    They are those of the body without its reports, as LLVM's optimiser leaves it, much as NVIDIA's compiler, which is
    made of it, would: without what is computed twice or for nothing. Its vectorisers are off.

    Integer operations are counted where it may copy blocks, as it does to unroll loops, which takes most of those for
    indices away: a mean over the copies. What else there is would be counted wrong there, as it also copies a loop for
    each value of a condition, and one copy may do nothing; it is counted where each block stays one.
    """
    text = "\n".join(lines) + "\n}\n"
    same = dict(_NOTE.findall(text))
    text = re.sub(r"%emu\.safe\d+", lambda m: same.get(m[0], m[0]), _NOTE.sub("", text))
    text = _INDEX.sub(r"or i64 \1, 0", text)
    text = re.sub(r"^  call void @emu\.note\.wait\(.*\n", "", _ROUND.sub("or i1 false, false", text), flags=re.M)
    text = _declared(text, rest)
    copied, single = (_of_blocks(text, attributes, llvm, machine) for attributes in ("", "convergent nomerge"))
    count = 1 + max((int(m[1]) for m in map(_BLOCK.match, lines) if m), default=-1)
    return [{what: n for found, integers in ((copied, True), (single, False))
             for what, n in found.get(i, {}).items() if (what == "integer") == integers} for i in range(count)]


def _of_blocks(text, attributes, llvm, machine):
    """{number of a block: {what: how often}} of a text, optimised; `attributes` are those of the blocks' reports.
    convergent, nomerge: it goes on standing at the head of its block, and is not copied into those that lead to it."""
    module = llvm.parse_assembly(f"{text}\ndeclare void @emu.note.block(ptr, i32) {attributes} nounwind willreturn "
                                 "memory(inaccessiblemem: readwrite)\n")
    options = llvm.create_pipeline_tuning_options(speed_level=3)
    options.loop_vectorization = options.slp_vectorization = False
    llvm.create_pass_builder(machine, options).getModulePassManager().run(
        module, llvm.create_pass_builder(machine, options))
    found, copies, ahead = {}, Counter(), Counter()
    current = ahead
    for line in str(module.get_function("emu.body")).splitlines():
        if _LABEL.match(line):
            ahead = current = Counter()               # what was moved into a block stands ahead of its report
        if m := _BLOCK.match(line):
            current = found.setdefault(int(m[1]), Counter())
            copies[int(m[1])] += 1
            current.update(ahead)
            ahead = Counter()
        elif computed := operation(line):
            what, times = computed
            current[what] += times
    return {i: {what: n / copies[i] for what, n in counts.items()} for i, counts in found.items()}


def _declared(text, rest):
    """A module of the body and of the rest, with declarations of what the fusing has brought in besides."""
    have = set(re.findall(r'^declare [^@]*@"?([^"(]+)"?\(', rest, flags=re.M)) | {"emu.note.block"}
    lines = [line for line in rest.split("\n") if line.startswith(("declare", "@", "attributes", "!", "%"))]
    for m in re.finditer(r'\bcall ([^@\n]+?) @"?([\w.|]+)"?\(([^\n]*?)\)(?: #\d+)?$', text, flags=re.M):
        if m[2] not in have:
            have.add(m[2])
            lines.append(f'declare {m[1].strip()} @"{m[2]}"({", ".join(types_of(m[3]))}) nounwind willreturn '
                         'memory(none)')
    return text + "\n".join(lines)


def operation(line):
    """What a line of LLVM's text computes, and how many of them: ("fp32 fma", 1); None where it computes nothing."""
    if m := _PACKED.search(line):
        return "fp16 " + m[1].replace("sub", "add"), 2
    for pattern, name in _OPERATIONS:
        if m := pattern.search(line):
            return f"{_FLOATS[m[1]]} {name}", 1
    return ("conversion", 1) if _CONVERSION.search(line) else ("integer", 1) if _INTEGER.search(line) else None


def converts_floats(line):
    """Whether a line of LLVM's text turns a float into one of another format."""
    return bool(_OF_FLOATS.search(line))

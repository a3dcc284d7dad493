"""From the IR that Numba-CUDA compiles a kernel to, to a coroutine for the host.

`translate` works on LLVM IR as text, in two passes. The first makes one function of the kernel and everything it calls,
in which operations of the GPU are calls without a body (`reading`). On that text, products are fused with the sums they
go into, as the GPU's compiler does (`rounding`); waiting operations become "note what you bring, suspend, fetch the
result"; and questions about the thread get its record as an argument. The second pass adds the bodies of `twins` and
`context.ll`, and LLVM makes a coroutine of it.

The coroutine has LLVM's returned-continuation form (LLVM documentation, "Coroutines in LLVM", section
"Returned-Continuation Lowering"): suspending costs a return and resuming an indirect call.
"""
import re
from dataclasses import dataclass
from importlib import resources

from numprec.emulator import halves, libdevice, twins
from numprec.emulator.errors import EmulatorError, Unsupported
from numprec.emulator.instrument import instrument, operations
from numprec.emulator.ir import PURE
from numprec.emulator.reading import lay_out, prepare, size_of, split, types_of
from numprec.emulator.rounding import define, fuse, keep_wide, unpacked
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


_CALL = re.compile(r'(?P<result>%[\w.]+ = )?(?:tail |notail |musttail )?call (?P<ret>[^@(]+?) @"?(?P<name>[^"(]+)"?'
                   r"\((?P<args>.*)\)(?: #\d+)?$")


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
            kind, args = name.removeprefix("emu.sync."), split(m["args"])
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
             f"declare ptr @emu.ctx.args() {PURE}",
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
    text = re.sub(r'^(declare .* @"?emu\.ctx\.[\w.]+"?\(.*\))\s*$', rf"\1 {PURE}", text, flags=re.M)
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
    text = re.sub(r"^declare .* @emu\.nvvm\..*$", lambda m: f"{m[0]} {PURE}", text, flags=re.M)
    for name, other in exact.items():
        if name != other and f"@{other}(" in text:
            types = types_of(declared[name]["args"])
            names = ", ".join(f"{kind} %a{i}" for i, kind in enumerate(types))
            text += (f"define {types[0]} @{name}({names}) {{\n  %r = call {types[0]} @{other}({names})\n"
                     f"  ret {types[0]} %r\n}}\n")
    return text


def _first_pass(modules, entry, llvm, machine, instrumented, debug):
    """Links the modules, inlines everything into @emu.body, and returns the text."""
    signature = re.search(rf'define \S*\s?i32 @"{re.escape(entry)}"\((.*)\)', modules[0])[1]
    types = types_of(signature)[1:]
    pure = f"declare ptr @emu.shared(ptr) {PURE}\n"
    shims = _resolve("\n".join(modules), lambda name, ret, args: halves.shim(name, args))
    shims = shims.replace("define internal", "define")      # they are called from other modules
    library = _library(modules)
    linked = None
    for text in filter(None, [_wrapper(entry, types, debug) + halves.PRIMITIVES + shims, library, *modules]):
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
            body = define(m["name"], ret, types_of(m["args"]))
            if body:
                found[m["name"]] = body
    return "\n".join(found.values())


def lowered(modules, entry, kernel, llvm, machine, instrumented=False, debug=False):
    """A kernel and all it calls as one function: (its lines, the text around it, types of its arguments, {shared array:
    its place}, {shared array: its size and alignment}, bytes of shared memory, bytes of local memory)."""
    shared = {}

    def size(kind):
        return size_of(kind, llvm, machine)

    modules = [prepare(text, kernel, size, shared, instrumented) for text in modules]
    offsets, shared_bytes = lay_out(shared)
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
        return size_of(kind, llvm, machine)

    places = {name.strip('@"'): place for name, place in offsets.items()}
    sites = shared_arrays = locals_ = mix = ()
    if arguments is None:
        body = keep_wide(fuse(define(body)))
        body = ask_in_loops(body, unpacked(body))
    else:
        sizes = {name.strip('@"'): (places[name.strip('@"')], size_) for name, (size_, _) in shared.items()}
        body, sites, shared_arrays, locals_ = instrument(body, rest, unpacked, arguments, sizes, size)
        used = set(re.findall(r"!\d+", "\n".join(body)))
        rest = re.sub(r"^(!\S+) = .*$", lambda m: m[0] if m[1] in used else "", rest, flags=re.M)
        body = fuse(define(body))
        mix = operations(body, rest, llvm, machine)
        body = keep_wide(body)
    serial = _is_serial(body)
    body = _expand(body, places)
    body[0] = "define internal void @emu.body(ptr %ctx) alwaysinline {"
    body_text = "\n".join(body) + "\n}\n"

    files = ["context.ll"] if arguments is None else ["context.ll", "events.ll", "listen.ll"]
    context = "".join(resources.files("numprec.emulator").joinpath(name).read_text() for name in files)
    support = context + halves.arithmetic(half_in_hardware)
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
                args = types_of(re.sub(r"\b(noundef|nocapture|nonnull|captures\(none\)) ?", "", m["args"]))
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

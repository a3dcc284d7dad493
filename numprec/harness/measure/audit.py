"""What the compiler made of every kernel: machine-independent code (PTX) for any card, without a card.

`launches(operation, rung, precision)` runs the chapter's own `launch` on a device that records instead of running, and
so finds the kernels of a rung and the types of their arguments. `compile_ptx` takes them down the path that Numba
takes, linking at link time with the float16 routines that Numba compiles apart, and `inspect` counts what must not be
there: float64 instructions outside fp64, and local memory, which is where registers spill.

`lint` reads the source instead, and `python_floats` the closures: a float in a kernel is a float64, whatever the
arrays hold.
"""
import ast
import re
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from numprec.device import Emulator
from numprec.language.ladder import KINDS

CARDS = ((7, 5), (9, 0))


class Launch(NamedTuple):
    """A kernel and the Numba types of its arguments."""

    kernel: object
    argtypes: tuple


class Recorder(Emulator):
    """A device whose `launch` runs nothing; `seen` holds each distinct Launch in order."""

    def __init__(self):
        super().__init__()
        self.name = "recorder"
        self.seen = []

    def empty(self, shape, fmt):
        return self.zeros(shape, fmt)

    def _launch(self, kernel, grid, block, args, shared):
        from numba.cuda.typing.typeof import Purpose, typeof
        found = Launch(kernel, tuple(typeof(a, Purpose.argument) for a in args))
        if found not in self.seen:
            self.seen.append(found)


def launches(operation, rung, precision):
    """Every Launch of a rung in `precision`, over the operation's test shapes."""
    recorder = Recorder()
    rng = np.random.default_rng(0)
    for shape in operation.shapes:
        arrays = map(np.asarray, operation.inputs(rng, shape, KINDS[0], precision))
        operation.launch(recorder, rung, precision,
                         *(recorder.array(a, precision.storage if a.dtype.kind == "f" else None) for a in arrays))
    return recorder.seen


# ---- compiled code

@lru_cache(maxsize=None)
def front_end(kernel, argtypes):
    """Numba's half of the compilation, which is the same for all CARDS, and takes longer than NVIDIA's: (its library,
    the text of its modules before the kernel got its entry, the mangled name of the kernel)."""
    from numba.cuda.compiler import kernel_fixup

    from numprec.emulator import compile as compiler
    found = compiler.front_end(kernel, argtypes, CARDS[0], False)
    kernel_fixup(found.library.get_function(found.entry), False)
    return found.library, found.texts, found.entry


def ptx_of(library, compute_capability):
    """PTX of a library; float16 routines are linked in, as they are when it runs."""
    ptx = library.get_asm_str(compute_capability)
    if ".extern .func" in ptx:
        library._lto = True
        ptx = library.get_lto_ptx(compute_capability)
    return ptx


def assembled(ptx, compute_capability):
    """The machine code, an ELF file, that ptxas makes of PTX."""
    from numba.cuda.cudadrv import driver
    linker = driver._Linker(cc=compute_capability)
    linker.add_ptx(ptx.encode())
    return bytes(linker.complete().code)


@lru_cache(maxsize=None)
def compile_ptx(kernel, argtypes, compute_capability):
    """PTX of a `@cuda.jit` kernel."""
    return ptx_of(front_end(kernel, argtypes)[0], compute_capability)


@lru_cache(maxsize=None)
def cubin(kernel, argtypes, compute_capability):
    """The machine code of a `@cuda.jit` kernel."""
    return assembled(compile_ptx(kernel, argtypes, compute_capability), compute_capability)


class Findings(NamedTuple):
    """`float64`: the opcodes with a float64 operand, with repetition. `local_bytes`: local memory per thread."""

    float64: list
    local_bytes: int


_LOCAL = re.compile(r"\.local\s+(?:\.align\s+\d+\s+)?\.b8\s+\w+\[(\d+)\]")


def opcodes(ptx):
    """The opcode of each instruction, in order: `fma.rn.f32`, `ld.shared.u16`, ..."""
    for statement in re.split(r"[;{}\n]", re.sub(r"//[^\n]*", "", ptx)):
        words = statement.split()
        if words and words[0].startswith("@"):       # a predicate
            words = words[1:]
        if words and words[0][0].isalpha():
            yield words[0]


def inspect(ptx):
    """Findings about one compilation."""
    return Findings([op for op in opcodes(ptx) if "f64" in op.split(".")],
                    sum(int(size) for size in _LOCAL.findall(ptx)))


# ---- source

def lint(source, filename="<kernel>"):
    """(line, what) for each float in the body of a `@cuda.jit` function, and each division by an integer literal."""
    found = []
    for function in ast.walk(ast.parse(source, filename)):
        if isinstance(function, ast.FunctionDef) and any(map(_is_jit, function.decorator_list)):
            found += [(node.lineno, what) for node in ast.walk(function) if (what := _forbidden(node))]
    return sorted(set(found))


def _is_jit(decorator):
    return ast.unparse(decorator).partition("(")[0] in ("cuda.jit", "jit")


def _forbidden(node):
    if isinstance(node, ast.Constant) and isinstance(node.value, (float, complex)):
        return f"the literal {node.value!r} is a float64"
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
        if any(isinstance(side, ast.Constant) and isinstance(side.value, int) for side in (node.left, node.right)):
            return f"{ast.unparse(node)} is a division by, or of, an integer: a float64"
    if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in ("float", "float64", "double"):
        return f"{ast.unparse(node)} is a float64"
    return None


def python_floats(kernel):
    """Names of the Python floats that a kernel, or a device function that it calls, closes over or finds among its
    globals: Numba makes each of them a float64."""
    found, seen, queue = set(), set(), [kernel.py_func]
    while queue:
        function = queue.pop()
        if function.__code__ in seen:
            continue
        seen.add(function.__code__)
        closure = dict(zip(function.__code__.co_freevars, (c.cell_contents for c in function.__closure__ or ())))
        used = {n: function.__globals__[n] for n in function.__code__.co_names if n in function.__globals__}
        for name, value in {**used, **closure}.items():
            if isinstance(value, float) and not isinstance(value, np.floating):
                found.add(f"{function.__name__}: {name}")
            elif hasattr(value, "py_func"):
                queue.append(value.py_func)
    return sorted(found)

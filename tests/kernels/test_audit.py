"""Every kernel, compiled for sm_75 and sm_90 without a GPU: no float64 outside fp64, no registers spilled;
and the emulator's code rounds what the machine's does."""
import inspect
import textwrap
from pathlib import Path

import audit_exceptions as exceptions
import pytest
from ladders import EXPECTED, OPERATIONS
from numba import cuda, types
from numba.cuda.typing.typeof import Purpose, typeof

import numprec
from numprec.emulator import compile as compiler
from numprec.harness.measure import arithmetic, audit
from numprec.kernels.products import matmul
from numprec.language.instructions import mul_rn
from numprec.language.ladder import Rung
from numprec.precision import FORMATS, PRECISIONS

CASES = [(op, rung, p) for op in OPERATIONS.values() for rung in op.rungs for p in PRECISIONS.values()
         if rung.supports(p)]
PACKAGE = Path(numprec.__file__).parent
SOURCES = sorted(path for part in ("kernels", "language") for path in (PACKAGE / part).rglob("*.py"))


def name(operation, rung):
    return f"{operation.name}/{rung.name}"


# ---- the emulator's code rounds what the machine's does

@cuda.jit
def straight(a, b, c, out):
    i = cuda.grid(1)
    if i < a.size:
        x, y, z = a[i], b[i], c[i]
        out[0, i] = x * y + z
        kept = x * z
        out[1, i] = kept
        out[2, i] = kept - y                    # not fused: the product is needed anyway
        out[3, i] = x * x + y * z               # one of two
        out[4, i] = y * y - z * z
        out[5, i] = mul_rn(y, x + z) + z


@pytest.mark.parametrize("cc", audit.CARDS, ids=str)
@pytest.mark.parametrize("number", [types.float32, types.float64], ids=str)
def test_the_emulator_fuses_what_ptxas_fuses(number, cc):
    argtypes = (types.Array(number, 1, "C"),) * 3 + (types.Array(number, 2, "C"),)
    machine = arithmetic.of_machine(straight, argtypes, cc)
    suffix = f"f{number.bitwidth}"
    assert machine == {f"fma.{suffix}": 3, f"mul.{suffix}": 4, f"add.{suffix}": 3}
    assert arithmetic.of_emulator(straight, argtypes) == machine


PAIRS = """.version 7.8
.target sm_75
.address_size 64
.visible .entry pairs(.param .u64 x, .param .u64 out) {
    .reg .b16 %h<9>; .reg .b32 %r<9>; .reg .b64 %d<3>;
    ld.param.u64 %d1, [x]; ld.param.u64 %d2, [out];
    ld.global.b32 %r1, [%d1]; ld.global.b32 %r2, [%d1+4]; ld.global.b32 %r3, [%d1+8];
    mov.b32 {%h1, %h2}, %r1; mov.b32 {%h3, %h4}, %r2;
    BODY
    ret;
}"""


@pytest.mark.parametrize("body, count", [
    ("add.f16 %h5, %h1, %h3; st.global.b16 [%d2], %h5;", {"add.f16": 1}),
    ("add.f16 %h5, %h2, %h4; st.global.b16 [%d2], %h5;", {"add.f16": 1}),
    ("add.f16 %h5, %h1, %h3; add.f16 %h6, %h2, %h4; mov.b32 %r4, {%h5, %h6}; st.global.b32 [%d2], %r4;",
     {"add.f16": 2}),
    ("mov.b16 %h5, 0x3555; mul.f16 %h6, %h1, %h5; st.global.b16 [%d2], %h6;", {"mul.f16": 1}),
    ("mov.b32 %r4, 0x35553666; mul.f16x2 %r5, %r1, %r4; st.global.b32 [%d2], %r5;", {"mul.f16": 2}),
    ("mul.f16x2 %r5, %r1, %r2; st.global.b32 [%d2], %r5;", {"mul.f16": 2}),
    ("fma.rn.f16x2 %r5, %r1, %r2, %r3; st.global.b32 [%d2], %r5;", {"fma.f16": 2}),
    ("fma.rn.f16 %h5, %h1, %h3, %h4; st.global.b16 [%d2], %h5;", {"fma.f16": 1}),
    ("mov.b32 {%h5, %h6}, %r3; fma.rn.f16 %h7, %h1, %h3, %h5; fma.rn.f16 %h8, %h1, %h3, %h6; "
     "mov.b32 %r4, {%h7, %h8}; st.global.b32 [%d2], %r4;", {"fma.f16": 2}),
])
def test_float16_operations_in_one_instruction_are_two(body, count):
    assert arithmetic.of_cubin(audit.assembled(PAIRS.replace("BODY", body), (7, 5))) == count


def test_exceptions_name_what_exists():
    known = {(name(operation, rung), str(precision)) for operation, rung, precision in CASES}
    assert {*exceptions.FLOAT64, *exceptions.LOCAL_MEMORY} <= known
    tables = exceptions.COPIED, exceptions.SHARED, exceptions.BOTH
    concerned = {kernel.split("/")[0] for kernel, _ in EXPECTED}
    launched = {(f"{operation.name}/{launch.kernel.py_func.__name__}", str(precision))
                for operation, rung, precision in CASES if operation.name in concerned
                for launch in audit.launches(operation, rung, precision)}
    assert EXPECTED.keys() <= launched
    assert len(EXPECTED) == sum(len(precisions) for table in tables for precisions, _ in table.values())
    reasons = [*exceptions.FLOAT64.values(), *exceptions.LOCAL_MEMORY.values(),
               *(reason for table in tables for _, reason in table.values())]
    assert all(len(reason.split()) > 3 for reason in reasons)


def test_every_kernel_is_looked_at():
    kernels = {Path(inspect.getfile(launch.kernel.py_func)) for operation, rung, precision in CASES
               if precision.name == "fp32" for launch in audit.launches(operation, rung, precision)}
    assert kernels <= set(SOURCES)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_no_float_in_a_kernel_body(path):
    """But for the one that Part 0 shows, to say why there is no other."""
    found = audit.lint(path.read_text(encoding="utf-8"), path.name)
    assert len(found) == (path.name == "rounding.py"), found


def test_a_kernel_that_ran_is_not_compiled_anew(device, monkeypatch):
    """What conftest.py is there for: the audit finds Numba's half of the compilation that the emulator has made."""
    if device.kind != "emulator":
        pytest.skip("on a GPU, kernels are compiled without the emulator's front end")
    monkeypatch.setenv("NUMPREC_CACHE", "")      # or the emulator would not compile at all
    kernel = matmul.naive.factory(PRECISIONS["fp32"])
    arrays = [device.zeros((2, 2), FORMATS["float32"]) for _ in range(4)]
    before = compiler.front_end.cache_info()
    device.launch(kernel, 1, (2, 2), *arrays)
    audit.front_end(kernel, tuple(typeof(a, Purpose.argument) for a in arrays))
    after = compiler.front_end.cache_info()
    assert (after.misses - before.misses, after.hits - before.hits) == (1, 1)


# ---- the audit sees what it is there to see

def mutant(rung, old, new):
    """A rung with one line of its source changed, and that source."""
    source = textwrap.dedent(inspect.getsource(rung.factory)).replace("@rung\n", "")
    assert source.count(old) == 1
    source = source.replace(old, new)
    scope = dict(vars(matmul))
    exec(source, scope)
    return Rung(scope[rung.factory.__name__], rung.operation, rung.compute_capability, rung.supports), source


def compiled(rung, precision, cc):
    element = types.Array({"float32": types.float32, "float16": types.float16,
                           "bfloat16": types.uint16}[precision.storage.name], 2, "C")
    return audit.inspect(audit.compile_ptx(rung[precision], (element,) * 4, cc))


@pytest.mark.parametrize("precision", ["fp32", "fp16", "mixed_fp16", "mixed_bf16"])
@pytest.mark.parametrize("cc", audit.CARDS, ids=str)
@pytest.mark.parametrize("old, new", [("acc = accum(0)", "acc = 0.0"),
                                      ("plus(acc, ", "plus(0.1 * acc, ")])
def test_a_float_literal_is_caught(precision, cc, old, new):
    changed, source = mutant(matmul.tiled, old, new)
    assert compiled(changed, PRECISIONS[precision], cc).float64
    assert audit.lint(source)
    unchanged, source = mutant(matmul.tiled, old, old)
    assert not compiled(unchanged, PRECISIONS[precision], cc).float64
    assert not audit.lint(source)


@pytest.mark.parametrize("body, caught", [
    ("x = 0.5", True), ("x = acc / 2", True), ("x = 1 / acc", True), ("x = acc > 1e-3", True), ("x = float(n)", True),
    ("x = np.float64(n)", True), ("x = accum(1) / acc", False), ("x = n // 2", False), ("x = accum(0)", False)])
def test_the_lint_tells_floats_from_integers(body, caught):
    assert bool(audit.lint(f"@cuda.jit(device=True)\ndef f(acc, n):\n    {body}\n")) == caught
    assert not audit.lint(f"def oracle(acc, n):\n    {body}\n")


def test_a_python_float_is_caught():
    half = 0.5
    plain = matmul.naive[PRECISIONS["fp32"]]
    assert not audit.python_floats(plain)

    def epilogue(p):
        from numba import cuda

        @cuda.jit(device=True)
        def halve(acc, m, n, extra):
            return half * acc
        return halve
    kernel = matmul.naive.factory(PRECISIONS["fp32"], epilogue=epilogue)
    assert audit.python_floats(kernel) == ["halve: half"]


def test_local_memory_is_caught():
    """A local array that is indexed by something known at run time only cannot live in registers."""
    changed, _ = mutant(matmul.register_blocked, "b_r[j] = accum(compute(B_s[k, n + j]))",
                        "b_r[(j + t) % PATCH] = accum(compute(B_s[k, n + j]))")
    assert compiled(changed, PRECISIONS["fp32"], (7, 5)).local_bytes >= 4 * matmul.PATCH


def test_opcodes():
    ptx = """
        .reg .f64 %fd<3>;   // add.f64
        { cvt.f64.f32 %fd1, %f1; }
    @%p1 ld.param.f64 %fd2, [entry_param_0];
        .local .align 8 .b8 __local_depot0[24];
        bra $L__BB0_2;
    """
    assert list(audit.opcodes(ptx)) == ["cvt.f64.f32", "ld.param.f64", "bra"]
    assert audit.inspect(ptx) == (["cvt.f64.f32", "ld.param.f64"], 24)

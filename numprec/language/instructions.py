"""Instructions that Numba has no name for: the only inline PTX of the textbook.

    bits, number            a float's bits as an integer, and back; no instruction at all
    mul_rn, add_rn          a product or a sum that is never fused into a multiply-add
    pack2, low, high        two halves in one uint32
    add2, mul2, fma2        arithmetic on both halves at once
    narrow_bf16             float32 -> the bits of the nearest bfloat16
    load16, store16         16 bytes in one access

Two float16 travel in a uint32, because Numba has no type for them: shared arrays, registers, shuffles and 16-byte
loads of uint32 all work.

INSTRUCTIONS lists every string handed to the assembler. The emulator has a host twin for each, found by the mnemonic;
a new row needs one there.

Source     NVIDIA, Parallel Thread Execution ISA, chapter "Instruction Set", sections as named in the table
"""
from typing import NamedTuple

from llvmlite import ir
from numba import types
from numba.core import errors
from numba.cuda.extending import intrinsic

_WORD = ir.IntType(32)


class Instruction(NamedTuple):
    """`constraints`: the result, then the operands; h is a 16-bit register, r a 32-bit one, f a float, d a double."""

    constraints: str
    compute_capability: tuple
    section: str


INSTRUCTIONS = {
    "mul.rn.f16": Instruction("=h,h,h", (5, 3), "Half Precision Floating Point Instructions: mul"),
    "mul.rn.f32": Instruction("=f,f,f", (2, 0), "Floating Point Instructions: mul"),
    "mul.rn.f64": Instruction("=d,d,d", (2, 0), "Floating Point Instructions: mul"),
    "add.rn.f16": Instruction("=h,h,h", (5, 3), "Half Precision Floating Point Instructions: add"),
    "add.rn.f32": Instruction("=f,f,f", (2, 0), "Floating Point Instructions: add"),
    "add.rn.f64": Instruction("=d,d,d", (2, 0), "Floating Point Instructions: add"),
    "add.rn.f16x2": Instruction("=r,r,r", (5, 3), "Half Precision Floating Point Instructions: add"),
    "mul.rn.f16x2": Instruction("=r,r,r", (5, 3), "Half Precision Floating Point Instructions: mul"),
    "fma.rn.f16x2": Instruction("=r,r,r,r", (5, 3), "Half Precision Floating Point Instructions: fma"),
    "cvt.rn.bf16.f32": Instruction("=h,f", (8, 0), "Data Movement and Conversion Instructions: cvt"),
}


def assembly(mnemonic):
    """The text for the assembler: `fma.rn.f16x2 $0, $1, $2, $3;`."""
    operands = range(len(INSTRUCTIONS[mnemonic].constraints.split(",")))
    return f"{mnemonic} {', '.join(f'${i}' for i in operands)};"


def _execute(mnemonic, result):
    """Code generation for one instruction whose operands are the intrinsic's arguments."""
    def codegen(context, builder, signature, args):
        function = ir.FunctionType(context.get_value_type(result), [a.type for a in args])
        asm = ir.InlineAsm(function, assembly(mnemonic), INSTRUCTIONS[mnemonic].constraints)
        return builder.call(asm, args)
    return codegen


def _require(condition, name, *given):
    if not condition:
        raise errors.TypingError(f"{name} does not take {', '.join(map(str, given))}")


# ---- bits and numbers

@intrinsic
def bits(typingctx, x):
    """The bits of a float as a signed integer of at least 32 bits, zero-extended; an integer is its own bits.

    The shuffles take these, and so carry float16, which Numba refuses to shuffle.
    """
    if isinstance(x, types.Integer):
        return x(x), lambda context, builder, signature, args: args[0]
    _require(isinstance(x, types.Float), "bits", x)
    word = types.int64 if x.bitwidth == 64 else types.int32

    def codegen(context, builder, signature, args):
        exact = builder.bitcast(args[0], ir.IntType(x.bitwidth))
        return builder.zext(exact, context.get_value_type(word)) if x.bitwidth < 32 else exact
    return word(x), codegen


@intrinsic
def number(typingctx, word, like):
    """The number of the type of `like` that has the bits `word`; the inverse of `bits`."""
    _require(isinstance(word, types.Integer) and isinstance(like, (types.Float, types.Integer)), "number", word, like)

    def codegen(context, builder, signature, args):
        exact = args[0]
        if word.bitwidth > like.bitwidth:
            exact = builder.trunc(exact, ir.IntType(like.bitwidth))
        return builder.bitcast(exact, context.get_value_type(like))
    return like(word, like), codegen


# ---- one rounding at a time

def _uncontracted(name, x, y):
    _require(isinstance(x, types.Float) and x == y, name, x, y)
    return x(x, x), _execute(f"{name.removesuffix('_rn')}.rn.f{x.bitwidth}", x)


@intrinsic
def mul_rn(typingctx, x, y):
    """x * y rounded by itself, where `x * y + z` would be fused: `mul.rn` is never contracted."""
    return _uncontracted("mul_rn", x, y)


@intrinsic
def add_rn(typingctx, x, y):
    """x + y rounded by itself; `add.rn` is never contracted."""
    return _uncontracted("add_rn", x, y)


# ---- two halves in a word

@intrinsic
def pack2(typingctx, low, high):
    """Two float16 in a uint32, `low` in its lower half."""
    _require(low == high == types.float16, "pack2", low, high)

    def codegen(context, builder, signature, args):
        lower, upper = (builder.zext(a, _WORD) for a in args)
        return builder.or_(lower, builder.shl(upper, ir.Constant(_WORD, 16)))
    return types.uint32(low, high), codegen


def _half_of(name, pair, shift):
    _require(pair == types.uint32, name, pair)

    def codegen(context, builder, signature, args):
        return builder.trunc(builder.lshr(args[0], ir.Constant(_WORD, shift)), ir.IntType(16))
    return types.float16(pair), codegen


@intrinsic
def low(typingctx, pair):
    """The float16 in the lower half of a uint32."""
    return _half_of("low", pair, 0)


@intrinsic
def high(typingctx, pair):
    """The float16 in the upper half of a uint32."""
    return _half_of("high", pair, 16)


@intrinsic
def add2(typingctx, a, b):
    """a + b in both halves, each rounded once: add.rn.f16x2."""
    _require(a == b == types.uint32, "add2", a, b)
    return types.uint32(a, b), _execute("add.rn.f16x2", types.uint32)


@intrinsic
def mul2(typingctx, a, b):
    """a * b in both halves, each rounded once: mul.rn.f16x2."""
    _require(a == b == types.uint32, "mul2", a, b)
    return types.uint32(a, b), _execute("mul.rn.f16x2", types.uint32)


@intrinsic
def fma2(typingctx, a, b, c):
    """a * b + c in both halves, each rounded once: fma.rn.f16x2."""
    _require(a == b == c == types.uint32, "fma2", a, b, c)
    return types.uint32(a, b, c), _execute("fma.rn.f16x2", types.uint32)


@intrinsic
def narrow_bf16(typingctx, x):
    """float32 -> the bits of the nearest bfloat16, ties to even, in one instruction: cvt.rn.bf16.f32.

    From compute capability 8.0; a Format's conversion, `storage(x)`, does the same in integer arithmetic anywhere.
    """
    _require(x == types.float32, "narrow_bf16", x)
    return types.uint16(x), _execute("cvt.rn.bf16.f32", types.uint16)


# ---- 16 bytes in one access

def _vector(array):
    """How many elements of a C-contiguous array 16 bytes hold, and their LLVM vector type."""
    _require(isinstance(array, types.Array) and array.layout == "C", "a 16-byte access", array)
    count = 128 // array.dtype.bitwidth
    return count, lambda context: ir.VectorType(context.get_value_type(array.dtype), count)


def _address(context, builder, array, value, index, vector):
    data = context.make_array(array)(context, builder, value).data
    return builder.bitcast(builder.gep(data, [index]), vector.as_pointer())


@intrinsic
def load16(typingctx, array, index):
    """A tuple of the elements index, index + 1, ... of a C-contiguous array, counted flat: one 128-bit load.

    The caller sees to it that the array starts at, and `index` reaches, a multiple of 16 bytes. Elements of 16 bits
    come in two 64-bit loads: view halves as uint32.
    """
    count, vector_type = _vector(array)
    result = types.UniTuple(array.dtype, count)

    def codegen(context, builder, signature, args):
        loaded = builder.load(_address(context, builder, array, *args, vector_type(context)))
        loaded.align = 16
        elements = [builder.extract_element(loaded, ir.Constant(_WORD, i)) for i in range(count)]
        return context.make_tuple(builder, result, elements)
    return result(array, index), codegen


@intrinsic
def store16(typingctx, array, index, values):
    """Writes what `load16` reads."""
    count, vector_type = _vector(array)
    _require(values == types.UniTuple(array.dtype, count), "store16", array, values)

    def codegen(context, builder, signature, args):
        data, offset, elements = args
        vector = vector_type(context)
        packed = ir.Constant(vector, ir.Undefined)
        for i in range(count):
            element = builder.extract_value(elements, i)
            packed = builder.insert_element(packed, element, ir.Constant(_WORD, i))
        stored = builder.store(packed, _address(context, builder, array, data, offset, vector))
        stored.align = 16
        return context.get_dummy_value()
    return types.void(array, index, values), codegen

"""Makes a `Format` usable inside a kernel, where it plays the roles storage, compute and accum.

    cuda.shared.array(n, storage)    an element type
    accum(A[m, k])                   a conversion from an element, or from any other number

A conversion rounds once, to nearest even. An integer literal, `accum(0)`, becomes a constant of the format: it
costs nothing, where `types.float16(0)` would convert an int64 at run time. Float literals are refused: 0.1 is a
float64 and has no business in a kernel; close over `constant(accum, 0.1)` instead, and call it. (A NumPy scalar would
do for float32 and float64; Numba cannot write a float16 one down.)

bfloat16 is held as its bits in a uint16, in arrays, tiles and registers alike, because Numba has no shared or
local bfloat16 arrays, and because a T4 has no bfloat16 arithmetic. Reading one is a shift; writing one rounds
to nearest even in integer arithmetic. Nothing is ever computed in bfloat16: products and sums are accum's.
So that bits and numbers are never confused, uint16 is not accepted as an ordinary integer anywhere here.
"""
from functools import lru_cache

from llvmlite import ir
from numba import types
from numba.core import errors
from numba.cuda.extending import core_models, intrinsic
from numba.cuda.models import register_model
from numba.cuda.np import numpy_support
from numba.cuda.typing.typeof import typeof_impl

from numprec.precision import Format

_WORD = ir.IntType(32)
_HALF_WORD = ir.IntType(16)


class FormatType(types.Callable, types.DTypeSpec, types.Opaque):
    """The Numba type of a Format: an array element type that can be called to convert."""

    def __init__(self, fmt):
        self.format = fmt
        self._conversion = None
        super().__init__(name=f"Format({fmt.name})")

    @property
    def dtype(self):
        return numpy_support.from_dtype(self.format.element)

    def get_call_type(self, context, args, kws):
        if self._conversion is None:
            conversion = _conversion(self.format)
            context.refresh()                    # makes the new intrinsic known to this typing context
            self._conversion = context.resolve_value_type(conversion)
        return self._conversion.get_call_type(context, args, kws)

    def get_call_signatures(self):
        return (), True

    def get_impl_key(self, sig):
        return self._conversion.get_impl_key(sig)


register_model(FormatType)(core_models.OpaqueModel)


@typeof_impl.register(Format)
def _typeof_format(fmt, _):
    return FormatType(fmt)


def _conversion(fmt):
    """The intrinsic `fmt(x)`."""
    is_bits = fmt.name == "bfloat16"
    element = numpy_support.from_dtype(fmt.element)
    value = types.float32 if is_bits else element    # what the number is rounded from, or held in

    @intrinsic
    def convert(typingctx, x):
        if isinstance(x, types.IntegerLiteral):
            constant = fmt.round(x.literal_value).reshape(1).view(fmt.element)[0]

            def literal(context, builder, signature, args):
                return context.get_constant(element, constant)
            return element(x), literal

        if x == types.uint16:                 # the bits of a bfloat16
            if is_bits:
                return element(x), lambda context, builder, signature, args: args[0]

            def from_bits(context, builder, signature, args):
                wide = builder.shl(builder.zext(args[0], _WORD), ir.Constant(_WORD, 16))
                number = builder.bitcast(wide, ir.FloatType())
                return context.cast(builder, number, types.float32, element)
            return element(x), from_bits

        if isinstance(x, (types.Float, types.Integer, types.Boolean)):
            def from_number(context, builder, signature, args):
                number = context.cast(builder, args[0], x, value)
                return _bfloat16_bits(builder, number) if is_bits else number
            return element(x), from_number

        raise errors.TypingError(f"{fmt.name}(x) takes a number or the bits of a bfloat16, not {x}")

    return convert


@lru_cache(maxsize=None)
def constant(fmt, number):
    """A function without arguments for use in a kernel: `number`, rounded to `fmt`, as an element of it."""
    element, value = numpy_support.from_dtype(fmt.element), fmt.round([number]).view(fmt.element)[0]

    @intrinsic
    def constant(typingctx):
        def codegen(context, builder, signature, args):
            if fmt.bits == 16:
                return ir.Constant(_HALF_WORD, int(value.view("u2")))
            return context.get_constant(element, value)
        return element(), codegen
    return constant


def _bfloat16_bits(builder, number):
    """float32 -> the 16 bits of the nearest bfloat16, ties to even; a NaN stays a (quiet) NaN."""
    bits = builder.bitcast(number, _WORD)
    upper = builder.lshr(bits, ir.Constant(_WORD, 16))
    even = builder.and_(upper, ir.Constant(_WORD, 1))
    rounded = builder.lshr(builder.add(bits, builder.add(even, ir.Constant(_WORD, 0x7FFF))), ir.Constant(_WORD, 16))
    quiet = builder.or_(upper, ir.Constant(_WORD, 0x40))
    is_nan = builder.fcmp_unordered("uno", number, number)
    return builder.trunc(builder.select(is_nan, quiet, rounded), _HALF_WORD)

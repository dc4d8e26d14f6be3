# SPDX-License-Identifier: Apache-2.0
"""Eight float32 lanes as one value inside numba kernels.

LLVM's loop vectoriser gives up on the compositing loops, so the kernels say what they want: ``+ - * /``, the
comparisons ``>= > <=`` and ``&`` work lane by lane on vectors (and float32 scalars), with `load`, `store`, `select`
and the rest below. LLVM maps them to whatever the machine has: one AVX register or two SSE/NEON ones.

numba's disk cache watches only the file of a cached kernel: after changing this file, touch those that use it.
"""

from __future__ import annotations

import operator

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, register_model

WIDTH = 8
FLOATS = ir.VectorType(ir.FloatType(), WIDTH)
INTS = ir.VectorType(ir.IntType(32), WIDTH)
BITS = ir.VectorType(ir.IntType(1), WIDTH)
# Fused multiply-adds are welcome; nothing that would change the meaning of NaN.
CONTRACT = ("contract", "nsz", "arcp")


class _Lanes(types.Type):
    """Numba type of a vector (``float32x8``) or of a comparison's result (``mask8``)."""


VECTOR, MASK = _Lanes(name="float32x8"), _Lanes(name="mask8")


@register_model(_Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager, lanes):
        super().__init__(manager, lanes, FLOATS if lanes == VECTOR else BITS)


def _constant(kind: ir.VectorType, values: list) -> ir.Constant:
    return ir.Constant(kind, [ir.Constant(kind.element, value) for value in values])


def _broadcast(builder, value, kind):
    """A scalar in every lane; vectors pass."""
    if kind in (VECTOR, MASK):
        return value
    first = builder.insert_element(ir.Constant(FLOATS, ir.Undefined), value, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(first, ir.Constant(FLOATS, ir.Undefined), _constant(INTS, [0] * WIDTH))


def _define(function, result, kinds, emit):
    """Teach numba ``function`` for two operands of ``kinds``, at least one of them a vector."""

    class _Template(AbstractTemplate):
        def generic(self, args, kws):
            known = len(args) == 2 and all(arg in kinds for arg in args)
            return signature(result, *args) if known and any(isinstance(arg, _Lanes) for arg in args) else None

    infer_global(function)(_Template)  # pyright: ignore[reportOptionalCall]

    def lower(context, builder, sig, args):
        return emit(builder, *(_broadcast(builder, *pair) for pair in zip(args, sig.args, strict=True)))

    for left in kinds:
        for right in kinds:
            if isinstance(left, _Lanes) or isinstance(right, _Lanes):
                lower_builtin(function, left, right)(lower)


NUMBERS = (VECTOR, types.float32)
_define(operator.add, VECTOR, NUMBERS, lambda builder, a, b: builder.fadd(a, b, flags=CONTRACT))
_define(operator.sub, VECTOR, NUMBERS, lambda builder, a, b: builder.fsub(a, b, flags=CONTRACT))
_define(operator.mul, VECTOR, NUMBERS, lambda builder, a, b: builder.fmul(a, b, flags=CONTRACT))
_define(operator.truediv, VECTOR, NUMBERS, lambda builder, a, b: builder.fdiv(a, b, flags=CONTRACT))
_define(operator.ge, MASK, NUMBERS, lambda builder, a, b: builder.fcmp_ordered(">=", a, b))
_define(operator.gt, MASK, NUMBERS, lambda builder, a, b: builder.fcmp_ordered(">", a, b))
_define(operator.le, MASK, NUMBERS, lambda builder, a, b: builder.fcmp_ordered("<=", a, b))
_define(operator.and_, MASK, (MASK,), lambda builder, a, b: builder.and_(a, b))


def _pointer(context, builder, array_type, array, index):
    """Address of ``array[index]``, unchecked."""
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), FLOATS.as_pointer())


@intrinsic
def load(typingctx, array, index):
    """The lanes ``array[index : index + 8]`` of a contiguous float32 vector."""

    def codegen(context, builder, sig, args):
        return builder.load(_pointer(context, builder, sig.args[0], *args), align=4)

    return VECTOR(array, types.intp), codegen


@intrinsic
def store(typingctx, array, index, value):
    """Write the lanes to ``array[index : index + 8]``."""

    def codegen(context, builder, sig, args):
        builder.store(args[2], _pointer(context, builder, sig.args[0], args[0], args[1]), align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, VECTOR), codegen


@intrinsic
def broadcast(typingctx, value):
    """A scalar in every lane."""

    def codegen(context, builder, sig, args):
        return _broadcast(builder, args[0], sig.args[0])

    return VECTOR(types.float32), codegen


@intrinsic
def select(typingctx, mask, yes, no):
    """``yes`` in the lanes of the mask, ``no`` elsewhere; either may be a scalar."""

    def codegen(context, builder, sig, args):
        return builder.select(
            args[0], _broadcast(builder, args[1], sig.args[1]), _broadcast(builder, args[2], sig.args[2])
        )

    return VECTOR(MASK, yes, no), codegen


def _smaller_or_larger(sign: str):
    def typer(typingctx, a, b):
        def codegen(context, builder, sig, args):
            left, right = (_broadcast(builder, *pair) for pair in zip(args, sig.args, strict=True))
            return builder.select(builder.fcmp_ordered(sign, left, right), left, right)

        return VECTOR(a, b), codegen

    return typer


smaller = intrinsic(_smaller_or_larger("<"))
larger = intrinsic(_smaller_or_larger(">"))


@intrinsic
def magnitude(typingctx, value):
    """Absolute values."""

    def codegen(context, builder, sig, args):
        bits = builder.and_(builder.bitcast(args[0], INTS), _constant(INTS, [0x7FFFFFFF] * WIDTH))
        return builder.bitcast(bits, FLOATS)

    return VECTOR(VECTOR), codegen


@intrinsic
def lane_bits(typingctx, mask):
    """The lanes of a mask as the bits of a number."""

    def codegen(context, builder, sig, args):
        return builder.zext(builder.bitcast(args[0], ir.IntType(WIDTH)), ir.IntType(64))

    return types.int64(MASK), codegen


@intrinsic
def square_root(typingctx, value):
    """Square roots; NaN of what is negative."""

    def codegen(context, builder, sig, args):
        kind = ir.FunctionType(FLOATS, [FLOATS])
        return builder.call(cgutils.get_or_insert_function(builder.module, kind, f"llvm.sqrt.v{WIDTH}f32"), args)

    return VECTOR(VECTOR), codegen


@intrinsic
def negated_magnitude(typingctx, value):
    """Minus the absolute values."""

    def codegen(context, builder, sig, args):
        bits = builder.or_(builder.bitcast(args[0], INTS), _constant(INTS, [0x80000000] * WIDTH))
        return builder.bitcast(bits, FLOATS)

    return VECTOR(VECTOR), codegen


@intrinsic
def times_power_of_two(typingctx, value, shifted):
    """``value * 2 ** n`` for ``shifted = 1.5 * 2 ** 23 + n``, whose last bits are ``n``: they become the exponent's."""

    def codegen(context, builder, sig, args):
        bits, power = (builder.bitcast(arg, INTS) for arg in args)
        return builder.bitcast(builder.add(bits, builder.shl(power, _constant(INTS, [23] * WIDTH))), FLOATS)

    return VECTOR(VECTOR, VECTOR), codegen


@intrinsic
def lowest_bit(typingctx, bits):
    """The number of the lowest bit that is set in a positive integer."""

    def codegen(context, builder, sig, args):
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.int64), codegen


@intrinsic
def zeros(typingctx, like):
    """As many vectors of zeros as the tuple ``like`` is long."""
    kind = types.UniTuple(VECTOR, len(like))

    def codegen(context, builder, sig, args):
        return context.make_tuple(builder, kind, [_constant(FLOATS, [0.0] * WIDTH)] * len(kind))

    return kind(like), codegen


@intrinsic
def add_scaled(typingctx, sums, factor, array, index):
    """The tuple ``sums`` with the vectors at ``array[index:]``, times ``factor``, added one to one."""

    def codegen(context, builder, sig, args):
        added = []
        for k, value in enumerate(cgutils.unpack_tuple(builder, args[0])):
            at = builder.add(args[3], ir.Constant(args[3].type, k * WIDTH))
            plane = builder.load(_pointer(context, builder, sig.args[2], args[2], at), align=4)
            added.append(builder.fadd(value, builder.fmul(args[1], plane, flags=CONTRACT), flags=CONTRACT))
        return context.make_tuple(builder, sig.return_type, added)

    return sums(sums, VECTOR, array, types.intp), codegen


def _halves_added(builder, a, b, low, high):
    """``low`` lanes of two vectors plus their ``high`` lanes; the second's begin at 8."""
    return builder.fadd(
        *(builder.shuffle_vector(a, b, _constant(INTS, lanes)) for lanes in (low, high)), flags=CONTRACT
    )


def _totals(builder, vectors):
    """The sums over the lanes of eight vectors, as one vector."""
    v = [vectors[i] for i in (0, 4, 1, 5, 2, 6, 3, 7)]  # the steps below stay within 128 bits, which orders them anew
    for low, high in (
        ([0, 1, 2, 3, 8, 9, 10, 11], [4, 5, 6, 7, 12, 13, 14, 15]),
        ([0, 1, 8, 9, 4, 5, 12, 13], [2, 3, 10, 11, 6, 7, 14, 15]),
        ([0, 2, 8, 10, 4, 6, 12, 14], [1, 3, 9, 11, 5, 7, 13, 15]),
    ):
        v = [_halves_added(builder, a, b, low, high) for a, b in zip(v[::2], v[1::2], strict=True)]
    return v[0]


@intrinsic
def store_totals(typingctx, array, index, sums):
    """Write the sum over the lanes of each vector of a tuple to ``array[index:]``."""

    def codegen(context, builder, sig, args):
        vectors = cgutils.unpack_tuple(builder, args[2])
        nothing = _constant(FLOATS, [0.0] * WIDTH)
        for first in range(0, len(vectors), WIDTH):
            part = vectors[first : first + WIDTH]
            values = _totals(builder, part + [nothing] * (WIDTH - len(part)))
            at = builder.add(args[1], ir.Constant(args[1].type, first))
            place = _pointer(context, builder, sig.args[0], args[0], at)
            if len(part) == WIDTH:
                builder.store(values, place, align=4)
                continue
            for number in [ir.Constant(ir.IntType(32), lane) for lane in range(len(part))]:
                lane = builder.gep(builder.bitcast(place, ir.FloatType().as_pointer()), [number])
                builder.store(builder.extract_element(values, number), lane)
        return context.get_dummy_value()

    return types.void(array, types.intp, sums), codegen

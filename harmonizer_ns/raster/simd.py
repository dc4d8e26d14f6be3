# SPDX-License-Identifier: Apache-2.0
"""Sixteen float32 lanes as one value inside numba kernels.

LLVM's loop vectoriser gives up on the compositing loops, so the kernels say what they want: ``+ - * /``, the
comparisons ``>= > <=`` and ``&`` work lane by lane on vectors (and float32 scalars), with `load`, `store`, `select`
and the rest below. LLVM maps them to whatever the machine has: one AVX-512 register, two AVX or four SSE/NEON ones.

numba's disk cache watches only the file of a cached kernel: after changing this file, touch those that use it.
"""

from __future__ import annotations

import operator

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, register_model

WIDTH = 16
FLOATS = ir.VectorType(ir.FloatType(), WIDTH)
INTS = ir.VectorType(ir.IntType(32), WIDTH)
BITS = ir.VectorType(ir.IntType(1), WIDTH)
# Fused multiply-adds are welcome; nothing that would change the meaning of NaN.
CONTRACT = ("contract", "nsz", "arcp")


class _Lanes(types.Type):
    """Numba type of a vector (``float32x16``) or of a comparison's result (``mask16``)."""


VECTOR, MASK = _Lanes(name="float32x16"), _Lanes(name="mask16")


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
    """The lanes ``array[index : index + 16]`` of a contiguous float32 vector."""

    def codegen(context, builder, sig, args):
        return builder.load(_pointer(context, builder, sig.args[0], *args), align=4)

    return VECTOR(array, types.intp), codegen


@intrinsic
def store(typingctx, array, index, value):
    """Write the lanes to ``array[index : index + 16]``."""

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
def lane_numbers(typingctx):
    """0, 1, ..., 15."""

    def codegen(context, builder, sig, args):
        return _constant(FLOATS, [float(lane) for lane in range(WIDTH)])

    return VECTOR(), codegen


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
def whole_part(typingctx, value):
    """Lanes rounded toward zero; they must fit 32 bits."""

    def codegen(context, builder, sig, args):
        return builder.sitofp(builder.fptosi(args[0], INTS), FLOATS)

    return VECTOR(VECTOR), codegen


@intrinsic
def power_of_two(typingctx, exponent):
    """``2 ** exponent`` for whole exponents in [-126, 127], by writing the exponent's bits."""

    def codegen(context, builder, sig, args):
        biased = builder.add(builder.fptosi(args[0], INTS), _constant(INTS, [127] * WIDTH))
        return builder.bitcast(builder.shl(biased, _constant(INTS, [23] * WIDTH)), FLOATS)

    return VECTOR(VECTOR), codegen


@intrinsic
def total(typingctx, value):
    """The sum of the lanes, pairwise."""

    def codegen(context, builder, sig, args):
        part, width = args[0], WIDTH
        while width > 1:
            width //= 2
            halves = []
            for start in (0, width):
                lanes = ir.Constant(ir.VectorType(ir.IntType(32), width), list(range(start, start + width)))
                halves.append(builder.shuffle_vector(part, ir.Constant(part.type, ir.Undefined), lanes))
            part = builder.fadd(*halves)
        return builder.extract_element(part, ir.Constant(ir.IntType(32), 0))

    return types.float32(VECTOR), codegen


@intrinsic
def any_lane(typingctx, mask):
    """Whether some lane of the mask is set."""

    def codegen(context, builder, sig, args):
        bits = builder.bitcast(args[0], ir.IntType(WIDTH))
        return cgutils.is_not_null(builder, bits)

    return types.boolean(MASK), codegen

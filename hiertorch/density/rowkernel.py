"""The loop over rows and chains, compiled by Numba (`hiertorch[fast]`): what `rowblocks` computes, without anything of
the size rows times chains in memory.

Note [Loops along chains]
For a block of 32 chains, or of 8, eta of four rows at a time is built in buffers on the stack, which a compiler knows
to lie apart, so that all loops run along chains in vector instructions. exp and log are written out, since a call of a
library would stop that: with k = round(x / log 2), exp x = 2^k p(x - k log 2) for a polynomial p, and 2^k is an
addition to the bits of the exponent; log is that of fdlibm (Sun Microsystems 1993, e_log.c). Both are good to some
units in the last place.

Note [Names of compiled functions]
Numba tells functions apart by their names, by the types of what they take, and by a number that each process counts
from 0 on: those that were kept on disk by two processes may have the same number, and of two functions that are equal
in all three, one is called in the place of the other, without a word. So every form of a loop has a name of its own. By
its name and its source file it is found on disk again; a function whose free variables are compiled functions never is.
"""

from collections.abc import Callable
from functools import cache
from types import FunctionType

import numpy as np
from llvmlite import ir
from numba import carray, njit, types
from numba.core import cgutils
from numba.extending import intrinsic, overload

from hiertorch.families.rowforms import BETWEEN, EXPONENTIAL, LOGISTIC, STUDENT, UNIT

WIDTHS = (32, 8)
"""Chains of a block: many, and a vector of the processor."""

FLUSH = 16
"""Rows after which sums in the precision of rows are added to those in double precision, and the logarithm of a product
is taken, which is at most 2^16.
"""

BITS = {types.float64: (64, 52, 1023), types.float32: (32, 23, 127)}
"""Of a number: all, those of its mantissa, and what is added to its exponent."""

HALF_ROOT = {types.float64: 0x3FE6A09E667F3BCD, types.float32: 0x3F3504F3}
"""The bits of sqrt(1/2)."""


@intrinsic(prefer_literal=True)
def buffer(context, like, length):  # type: ignore[no-untyped-def]
    """A pointer to numbers of an array's kind on the stack, as many as a literal says."""
    size = length.literal_value

    def make(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        number = context.get_value_type(like.dtype)
        place = cgutils.alloca_once(builder, ir.ArrayType(number, size))
        place.align = 64
        return builder.bitcast(place, number.as_pointer())

    return types.CPointer(like.dtype)(like, length), make


@intrinsic
def _times_power(context, p, k):  # type: ignore[no-untyped-def]
    """p 2^k, k being the last bits of a number that is large enough to have no fraction."""
    width, mantissa, _ = BITS[p]

    def make(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        whole = ir.IntType(width)
        p, k = (builder.bitcast(x, whole) for x in arguments)
        moved = builder.add(p, builder.shl(k, ir.Constant(whole, mantissa)))
        return builder.bitcast(moved, arguments[0].type)

    return p(p, k), make


@intrinsic
def _exponent(context, x):  # type: ignore[no-untyped-def]
    """k + 2^mantissa + bias of x = 2^k m, m from sqrt(1/2) to sqrt(2), which has no fraction: nothing is converted."""
    width, mantissa, bias = BITS[x]

    def make(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        whole = ir.IntType(width)
        shifted = builder.add(
            builder.bitcast(arguments[0], whole), ir.Constant(whole, (bias << mantissa) - HALF_ROOT[x])
        )
        k = builder.lshr(shifted, ir.Constant(whole, mantissa))
        k = builder.or_(k, ir.Constant(whole, (bias + mantissa) << mantissa))
        return builder.bitcast(k, arguments[0].type)

    return x(x), make


@intrinsic
def _mantissa(context, x):  # type: ignore[no-untyped-def]
    """m of x = 2^k m, from sqrt(1/2) to sqrt(2)."""
    width, mantissa, bias = BITS[x]

    def make(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        whole = ir.IntType(width)
        shifted = builder.add(
            builder.bitcast(arguments[0], whole), ir.Constant(whole, (bias << mantissa) - HALF_ROOT[x])
        )
        m = builder.and_(shifted, ir.Constant(whole, (1 << mantissa) - 1))
        return builder.bitcast(builder.add(m, ir.Constant(whole, HALF_ROOT[x])), arguments[0].type)

    return x(x), make


def exp(x: float) -> float:
    """exp x for x from -700 to 709, or -87 to 88 in single precision; of those beyond, that of the end."""
    raise NotImplementedError


def log(x: float) -> float:
    """log x for x of normal size; some finite number for others."""
    raise NotImplementedError


LOG2E, MAGIC, HIGH, LOW = 1.4426950408889634, 6755399441055744.0, 0.693147180369123816490, 1.90821492927058770002e-10
"""1 / log 2, 1.5 times 2^52, to which numbers are rounded, and log 2 in two parts."""

LOG2E_32, MAGIC_32, HIGH_32, LOW_32, ONE_32, TWO_32, HALF_32, LEAST_32, MOST_32, BIASED_32 = np.array(
    [LOG2E, 12582912.0, 0.693145751953125, 1.428606765330187e-06, 1, 2, 0.5, -87, 88, 2**23 + 127], np.float32
)
"""The same and others in single precision."""

E = (
    1.0, 1.0000000000000067, 0.5000000000000006, 0.16666666666554406, 0.04166666666657314, 0.008333333385667782,
    0.0013888888932488599, 0.00019841170270440067, 2.4801504346997686e-05, 2.764018079620985e-06,
    2.7626357241447223e-07,
)  # fmt: skip
"""exp on -log(2) / 2 to log(2) / 2, interpolated at the zeros of a Chebyshev polynomial: error 3e-16."""

E_32 = tuple(
    np.array(
        [1.0, 1.000000037716214, 0.5000000047117757, 0.16666415514653277, 0.04166635289677516, 0.008375126398153335,
         0.0013941108433972674],
        np.float32,
    )
)  # fmt: skip
"""The same to 2e-8."""

L = (
    6.666666666666735130e-01, 3.999999999940941908e-01, 2.857142874366239149e-01, 2.222219843214978396e-01,
    1.818357216161805012e-01, 1.531383769920937332e-01, 1.479819860511658591e-01,
)  # fmt: skip
"""fdlibm's coefficients of the logarithm."""

L_32 = tuple(np.array([0.66666662693, 0.40000972152, 0.28498786688, 0.24279078841], np.float32))
"""The same in single precision (e_logf.c of FreeBSD)."""


@overload(exp, inline="always", strict=False)
def _exp(x: types.Float) -> Callable[[float], float]:
    def double(x: float) -> float:
        x = min(max(x, -700.0), 709.0)
        big = x * LOG2E + MAGIC
        k = big - MAGIC
        r = (x - k * HIGH) - k * LOW
        p = E[7] + r * (E[8] + r * (E[9] + r * E[10]))
        p = E[0] + r * (E[1] + r * (E[2] + r * (E[3] + r * (E[4] + r * (E[5] + r * (E[6] + r * p))))))
        return _times_power(p, big)

    def single(x: float) -> float:
        near = min(max(x, LEAST_32), MOST_32)
        big = near * LOG2E_32 + MAGIC_32
        k = big - MAGIC_32
        r = (near - k * HIGH_32) - k * LOW_32
        p = E_32[4] + r * (E_32[5] + r * E_32[6])
        p = E_32[0] + r * (E_32[1] + r * (E_32[2] + r * (E_32[3] + r * p)))
        return _times_power(p, big)

    return double if x == types.float64 else single


@overload(log, inline="always", strict=False)
def _log(x: types.Float) -> Callable[[float], float]:
    def double(x: float) -> float:
        k = _exponent(x) - (2.0**52 + 1023.0)
        f = _mantissa(x) - 1.0
        s = f / (2.0 + f)
        z = s * s
        rest = z * (L[0] + z * (L[1] + z * (L[2] + z * (L[3] + z * (L[4] + z * (L[5] + z * L[6]))))))
        square = 0.5 * f * f
        return k * HIGH - ((square - (s * (square + rest) + k * LOW)) - f)

    def single(x: float) -> float:
        k = _exponent(x) - BIASED_32
        f = _mantissa(x) - ONE_32
        s = f / (TWO_32 + f)
        z = s * s
        rest = z * (L_32[0] + z * (L_32[1] + z * (L_32[2] + z * L_32[3])))
        square = HALF_32 * f * f
        return k * HIGH_32 - ((square - (s * (square + rest) + k * LOW_32)) - f)

    return double if x == types.float64 else single


def compiled(function: Callable[..., None], name: str, **calls: object) -> Callable[..., None]:
    """The function, compiled for vector instructions; kept on disk where there is a place for it.

    Args:
        function: what is compiled.
        name: tells it from others of the same code; see the note [Names of compiled functions].
        calls: what stands for global names of its module.
    """
    assert isinstance(function, FunctionType)
    own = FunctionType(function.__code__, function.__globals__ | calls, name, None, function.__closure__)
    own.__qualname__ = name
    options = {"nogil": True, "fastmath": {"contract", "nsz"}, "error_model": "numpy"}
    try:
        return njit(cache=True, **options)(own)
    except RuntimeError:  # neither beside this file nor in the user's own folder can anything be written
        return njit(**options)(own)


@cache
def loop(code: int, width: int) -> Callable[..., None]:
    """The loop for one g (`hiertorch.families.rowforms`) and blocks of so many chains, which a compiler then keeps in
    registers. It is compiled when it is first called, in some seconds, and kept on disk.
    """

    def add_rows(
        begin: int, end: int, start: np.ndarray, numbers: np.ndarray, design: np.ndarray, shared: np.ndarray,
        own: np.ndarray, own_design: np.ndarray, values: np.ndarray, chain: np.ndarray, out: np.ndarray,
    ) -> None:  # fmt: skip
        """Sums over the rows of the groups from `begin` to `end`, for all chains.

        Args:
            begin: the first group,
            end: and the one behind the last.
            start: the first row of each group, and the number of rows, `(groups + 1,)`.
            numbers: offset, half, linear, first and second of each row, `(rows, 5)`; of rows between two thresholds
                also the shares of the lower and the upper one by which their sites shift, `(rows, 7)`.
            design: `(rows, P)`, P even.
            shared: places among the values of what all rows of a group have, `(groups, S)`.
            own: places among the values of what single rows have, `(rows, T)`,
            own_design: and what each is multiplied by.
            values: `(blocks, places, width)`, the first P places those of the design.
            chain: chain_0, chain_1 and others, `(blocks, 2 or more, width)`.
            out: `(blocks, groups, width)` in double precision.
        """
        number = values.dtype.type
        zero, one, half_one = number(0.0), number(1.0), number(0.5)
        total = carray(buffer(out, 32), 32)
        base, part, product = (
            carray(buffer(values, 32), 32), carray(buffer(values, 32), 32), carray(buffer(values, 32), 32)
        )  # fmt: skip
        zeroth, first_chain = carray(buffer(values, 32), 32), carray(buffer(values, 32), 32)
        odd, eta = carray(buffer(values, 32), 32), carray(buffer(values, 128), 128)  # eta of four rows
        for b in range(values.shape[0]):
            for c in range(width):
                zeroth[c], first_chain[c] = chain[b, 0, c], chain[b, 1, c]
                odd[c] = zeroth[c] + first_chain[c]
            for k in range(2, chain.shape[1]):
                for c in range(width):
                    odd[c] += chain[b, k, c]
            for place in range(values.shape[1]):
                for c in range(width):
                    odd[c] += values[b, place, c]
            for c in range(width):
                odd[c] -= odd[c]  # 0, or not a number for a chain whose values are not finite
            for g in range(begin, end):
                for c in range(width):
                    base[c], part[c], product[c] = odd[c], zero, one
                    total[c] = 0.0
                for s in range(shared.shape[1]):
                    place = shared[g, s]
                    for c in range(width):
                        base[c] += values[b, place, c]
                i, last, since = start[g], start[g + 1] - 1, 0
                while i <= last:
                    count = min(last - i + 1, 4)
                    if count > 1:
                        i1, i2, i3 = i + 1, min(i + 2, last), min(i + 3, last)
                        o0, o1, o2, o3 = numbers[i, 0], numbers[i1, 0], numbers[i2, 0], numbers[i3, 0]
                        for c in range(width):
                            eta[c] = base[c] + o0
                            eta[32 + c] = base[c] + o1
                            eta[64 + c] = base[c] + o2
                            eta[96 + c] = base[c] + o3
                        for p in range(design.shape[1]):
                            x0, x1, x2, x3 = design[i, p], design[i1, p], design[i2, p], design[i3, p]
                            for c in range(width):
                                value = values[b, p, c]
                                eta[c] += x0 * value
                                eta[32 + c] += x1 * value
                                eta[64 + c] += x2 * value
                                eta[96 + c] += x3 * value
                    else:
                        o0 = numbers[i, 0]
                        for c in range(width):
                            eta[c] = base[c] + o0
                        for p in range(design.shape[1]):
                            x0 = design[i, p]
                            for c in range(width):
                                eta[c] += x0 * values[b, p, c]
                    for r in range(count):
                        row, at = i + r, 32 * r
                        for t in range(own.shape[1]):
                            place, x0 = own[row, t], own_design[row, t]
                            for c in range(width):
                                eta[at + c] += x0 * values[b, place, c]
                        half, linear = numbers[row, 1], numbers[row, 2]
                        first, second = numbers[row, 3], numbers[row, 4]
                        if code == UNIT:
                            for c in range(width):
                                x = eta[at + c]
                                away = abs(x)
                                part[c] += (half * x + linear) * x - half_one * away
                                product[c] *= one + exp(-away)
                        elif code == LOGISTIC:
                            for c in range(width):
                                x = eta[at + c]
                                y = x + zeroth[c]
                                soft = max(y, zero) + log(one + exp(-abs(y)))
                                part[c] += (half * x + linear) * x - (first + second * first_chain[c]) * soft
                        elif code == EXPONENTIAL:
                            for c in range(width):
                                x = eta[at + c]
                                part[c] += (half * x + linear) * x - first * exp(x)
                        elif code == STUDENT:
                            for c in range(width):
                                x = eta[at + c]
                                y = first - x
                                away = log(one + zeroth[c] * y * y)
                                part[c] += (half * x + linear) * x - second * first_chain[c] * away
                        elif code == BETWEEN:
                            k, low, high = int(second), numbers[row, 5], numbers[row, 6]
                            for c in range(width):
                                x, below, above = eta[at + c], chain[b, k, c], chain[b, k + 1, c]
                                y = x - low * below - high * above
                                over, under = x - above, below - x
                                both = (one + exp(-abs(over))) * (one + exp(-abs(under)))
                                soft = max(over, zero) + max(under, zero) + log(both)
                                part[c] += (half * y + linear) * y - first * soft
                        else:
                            for c in range(width):
                                x = eta[at + c]
                                y = first - x
                                part[c] += (half * x + linear) * x - second * zeroth[c] * y * y
                    i += count
                    since += count
                    if since >= FLUSH - 3 or i > last:
                        since = 0
                        for c in range(width):
                            total[c] += part[c]
                            part[c] = zero
                        if code == UNIT:
                            for c in range(width):
                                total[c] -= log(product[c])
                                product[c] = one
                for c in range(width):
                    out[b, g, c] = total[c]

    return compiled(add_rows, f"add_rows_{code}_{width}")

"""What an operation of torch makes of the sums of terms (`hiertorch.gaussian.terms`) that its arguments are.

Note [Operations]
Only what is listed here is taken for linear, bilinear or smooth. Everything else, such as an operation of a later
torch or of a user's library, is an unknown function with kinks of all that it is given: that may cost speed, where the
opposite mistake would cost the truth. Rounding, comparisons, `clamp`, `abs`, `max` and sorting are such operations too.
An argument of integers or truth values selects: where it depends on unknowns, what is selected is multiplied by a
function with jumps of these.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from hiertorch.gaussian.terms import CONSTANT, Sum, Term, added, joined, product, reads, scaled, unknown_function

Powers: TypeAlias = frozenset[tuple[str, float]]
"""Exponents, by unknown."""


def names(text: str) -> frozenset[str]:
    """The words of a text."""
    return frozenset(text.split())


SUMS = names(
    "positive sum mean cumsum clone copy _to_copy to cat stack flip roll rot90 diag_embed "
    "diagonal_copy tril triu index index_select gather take embedding index_add index_copy index_put _index_put_impl "
    "_unsafe_index _unsafe_index_put put scatter scatter_add slice_scatter select_scatter diagonal_scatter "
    "as_strided_scatter constant_pad_nd repeat repeat_interleave expand_copy permute_copy view_copy unfold "
    "unfold_copy lift lift_fresh _unsafe_view _reshape_copy reshape contiguous fill masked_fill where trace real imag "
    "conj_physical resolve_conj resolve_neg segment_reduce block_diag complex _sparse_sum diff"
)
"""Sums of their arguments, of their entries or of entries selected by data; spelled as in torch.ops.aten."""

NUMBERS = {"where": 1, "fill": 1, "masked_fill": 2, "constant_pad_nd": 2, "scatter": 3}
"""Where the arguments begin that may be numbers which are added."""

ADDITIONS = {"add": (1.0, 1.0), "sub": (1.0, -1.0), "rsub": (-1.0, 1.0)}
"""Factors of the first and of the second argument."""

COPIES = names("clone index index_select gather repeat _unsafe_view reshape contiguous lift lift_fresh")
"""What has entries of its argument alone, so that a number stays one."""

PRODUCTS = names("mul multiply mm bmm mv dot vdot matmul outer ger linalg_cross cross _sparse_mm sparse_mm")
"""Bilinear in their arguments."""

SUMS_AND_PRODUCTS = names("addmm addmv addbmm baddbmm addr addcmul _sparse_addmm")
"""x + a b."""

QUOTIENTS = names("div divide true_divide")
"""a / b."""

SOLUTIONS = {
    "linalg_solve_triangular": (0, 1),
    "_linalg_solve_ex": (0, 1),
    "triangular_solve": (1, 0),
    "cholesky_solve": (1, 0),
}
"""A^-1 b: places of A and of b."""

SMOOTH = names(
    "exp exp2 expm1 log log2 log10 log1p sqrt rsqrt square pow reciprocal sigmoid log_sigmoid log_sigmoid_forward tanh "
    "sin cos tan asin acos atan sinh cosh asinh acosh atanh erf erfc erfinv lgamma mvlgamma digamma polygamma "
    "special_ndtr special_ndtri special_log_ndtr special_erfcx special_expit special_i0e special_i1e xlogy "
    "special_xlog1py softplus softmax _softmax log_softmax _log_softmax logsumexp logaddexp logaddexp2 cumprod prod "
    "var std var_mean hypot linalg_cholesky_ex linalg_cholesky cholesky linalg_inv_ex inverse cholesky_inverse "
    "linalg_det _linalg_det linalg_slogdet _linalg_slogdet linalg_matrix_exp sinc gelu silu"
)
"""Functions without kinks."""

POWERS = {"sqrt": 0.5, "rsqrt": -0.5, "square": 2.0, "pow": None, "reciprocal": -1.0, "abs": 1.0}
"""(c u)^p = c^p u^p, so that data times a number a chain stay that; name -> p, which pow is told."""

ROOTS = names("linalg_cholesky_ex linalg_cholesky cholesky")
"""chol(u A) = u^(1/2) chol(A)."""

FRESH = names(
    "zeros_like ones_like empty_like full_like rand_like randn_like new_zeros new_ones new_empty new_full zero "
    "new_empty_strided empty_strided"
)
"""Tensors whose entries depend on no argument."""

HARMLESS = names(
    "_linalg_check_errors _assert_async is_same_size size sym_size stride sym_stride numel sym_numel dim "
    "storage_offset sym_storage_offset is_contiguous is_floating_point is_complex set resize"
)
"""Operations that tell shapes alone, or only raise errors."""


@dataclass(frozen=True)
class Value:
    """What is known of a tensor: its terms, whether it is data times one number for each chain, and the exponents of
    that number if it is a product of powers of unknowns that are positive numbers; None if it may be no such product.
    """

    terms: Sum
    even: bool = False
    powers: Powers | None = None


Known = Callable[[Tensor], Value | None]
"""Tells what is known of a tensor; None if it depends on no unknown."""


def tensors_in(thing: object) -> Iterable[Tensor]:
    """All tensors in a nest of lists, tuples and dicts."""
    if isinstance(thing, Tensor):
        yield thing
    elif isinstance(thing, list | tuple):
        for part in thing:
            yield from tensors_in(part)
    elif isinstance(thing, dict):
        yield from tensors_in(list(thing.values()))


def is_harmless(name: str) -> bool:
    """Whether an operation passes no values on."""
    return name in HARMLESS


def result(name: str, args: Sequence[object], kwargs: Mapping[str, object], known: Known) -> Value:
    """What is known of the first result of an operation, of which at least one argument depends on unknowns.

    Args:
        name: of the operation, as in `torch.ops.aten`, without a trailing underscore.
        args: as it is called with.
        kwargs: likewise, without `out`.
        known: a tensor -> what is known of it, None if it depends on nothing.
    """
    if name in FRESH:
        return Value(CONSTANT, True, frozenset())
    if name in ADDITIONS:
        return _addition(name, args, kwargs, known)
    if name in ("neg", "negative"):
        return Value(scaled(_terms(args[0], known), -1.0), _even(args[:1], known), _power(args[:1], known))
    if name in SUMS and not (name == "segment_reduce" and args[1] not in ("sum", "mean")):
        return _sum(name, args, kwargs, known)
    if name == "lerp":
        a, b, weight = (_terms(x, known) for x in args)
        return Value(joined(a, b if weight == CONSTANT else product(weight, a | b)))
    if name in PRODUCTS:
        return _product(args[0], args[1], known)
    if name in SUMS_AND_PRODUCTS:
        return Value(joined(_terms(args[0], known), _product(args[1], args[2], known).terms))
    if name == "addcdiv":
        return Value(joined(_terms(args[0], known), _quotient(args[1], args[2], known)))
    if name in QUOTIENTS and kwargs.get("rounding_mode") is None:
        if isinstance(args[1], int | float) and args[1] != 0:
            scaled_down = scaled(_terms(args[0], known), 1.0 / args[1])
            return Value(scaled_down, _even(args[:1], known), _power(args[:1], known))
        return Value(_quotient(args[0], args[1], known), _even(args[:2], known), _power(args[:2], known, (1.0, -1.0)))
    if name == "pow" and isinstance(args[1], int | float) and args[1] == 1:
        return Value(_terms(args[0], known), _even(args[:1], known), _power(args[:1], known))
    if name in SOLUTIONS:
        matrix, right = (_terms(args[at], known) for at in SOLUTIONS[name])
        return Value(product(unknown_function(matrix), right))
    terms = frozenset[Term]().union(*(_terms(x, known) for x in tensors_in([*args, kwargs])))
    kinked = name not in SMOOTH or (name == "softplus" and len(args) > 2)  # a threshold above which it is a line
    function = unknown_function(terms, kinked=kinked)
    by = 0.5 if name in ROOTS else args[1] if name == "pow" else POWERS.get(name)
    if not isinstance(by, int | float) or not isinstance(args[0], Tensor):  # such as 2 ** x
        return Value(function)
    return Value(function, _even(args[:1], known), _power(args[:1], known, (float(by),)))


def _addition(name: str, args: Sequence[object], kwargs: Mapping[str, object], known: Known) -> Value:
    """a + alpha b, a - alpha b or b - alpha a."""
    first, second = ADDITIONS[name]
    alpha: Any = kwargs.get("alpha", args[2] if len(args) > 2 else 1)
    if name == "rsub":
        first *= alpha
    else:
        second *= alpha
    a, b = (_terms(x, known) for x in args[:2])
    terms = added(scaled(a, first), scaled(b, second))
    kept = args[1:2] if not a else args[:1]  # where the other is 0
    return Value(terms, _even(kept, known), _power(kept, known)) if not a or not b else Value(terms)


def _sum(name: str, args: Sequence[object], kwargs: Mapping[str, object], known: Known) -> Value:
    """A sum of what arguments hold; those of integers and truth values select."""
    every = list(tensors_in([*args, kwargs]))
    selecting = [x for x in every if not (x.is_floating_point() or x.is_complex())]
    summed = [x for x in every if x.is_floating_point() or x.is_complex()]
    each = [_terms(x, known) for x in summed]
    terms = each[0] if name in COPIES and len(each) == 1 else joined(*each)
    numbers = (*args[NUMBERS[name] :], kwargs.get("value", 0)) if name in NUMBERS else ()
    if any(isinstance(x, int | float | complex) and x != 0 for x in numbers):
        terms = joined(terms, CONSTANT)
    chosen = unknown_function(frozenset().union(*(_terms(x, known) for x in selecting if known(x))), kinked=True)
    if reads(chosen):
        return Value(product(terms or CONSTANT, chosen))
    moving = [x for x in summed if known(x)]
    alone = len(moving) == 1 and terms == joined(known(moving[0]).terms)  # type: ignore[union-attr]
    if not alone and name not in COPIES:
        return Value(terms)
    return Value(terms, _even(moving, known), _power(moving, known) if len(moving) == 1 else None)


def _product(a: object, b: object, known: Known) -> Value:
    for number, x in ((a, b), (b, a)):
        if isinstance(number, int | float) and isinstance(x, Tensor):
            return Value(scaled(_terms(x, known), number), _even((x,), known), _power((x,), known))
    return Value(product(_factor(a, known), _factor(b, known)), _even((a, b), known), _power((a, b), known))


def _quotient(a: object, b: object, known: Known) -> Sum:
    return product(_factor(a, known), unknown_function(_factor(b, known)))


def _factor(x: object, known: Known) -> Sum:
    """As a factor a constant is one, even if it is 0."""
    value = known(x) if isinstance(x, Tensor) else None
    return CONSTANT if value is None else value.terms


def _terms(x: object, known: Known) -> Sum:
    """Of a part of a sum: nothing of a constant that is 0."""
    if not isinstance(x, Tensor):
        return CONSTANT if x else frozenset()
    value = known(x)
    if value is not None:
        return value.terms
    return CONSTANT if x.layout is not torch.strided or x.is_meta or bool(x.any()) else frozenset()


def _even(args: Iterable[object], known: Known) -> bool:
    """Whether all that depends on unknowns is data times one number for each chain."""
    values = [known(x) for x in args if isinstance(x, Tensor)]
    return all(value is None or value.even for value in values)


def _power(args: Sequence[object], known: Known, exponents: Sequence[float] = (1.0, 1.0)) -> Powers | None:
    """Exponents of the product of powers of arguments; of those that depend on nothing there are none."""
    total = dict[str, float]()
    for x, exponent in zip(args, exponents, strict=False):
        value = known(x) if isinstance(x, Tensor) else None
        if value is not None and value.powers is None:
            return None
        for name, power in value.powers or () if value is not None else ():
            total[name] = total.get(name, 0.0) + exponent * power
    return frozenset((name, power) for name, power in total.items() if power)

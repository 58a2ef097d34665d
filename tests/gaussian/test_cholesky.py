"""Batched factors and solves against NumPy, matrix by matrix; what is not positive definite; gradients."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from hiertorch.gaussian.cholesky import (
    UNROLLED,
    factor,
    inverse,
    log_diagonal,
    packed,
    product,
    solve_lower,
    solve_upper,
    square_index,
)

SIZES = (1, 2, 3, 5, 6, 9)
BATCHES = ((), (4,), (3, 2), (2, 1, 3))
CPU = torch.device("cpu")

sizes = pytest.mark.parametrize("size", SIZES)
batches = pytest.mark.parametrize("batch", BATCHES, ids=str)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def positive(size: int, *batch: int, seed: int = 1) -> Tensor:
    """Positive definite `(size, size, *batch)`, of condition numbers up to some hundreds."""
    root = normal(size, size + 2, *batch, seed=seed)
    product = torch.einsum("ij...,kj...->ik...", root, root)  # symmetric only up to rounding
    return 0.5 * (product + product.transpose(0, 1)) + 0.1 * torch.eye(size, dtype=root.dtype).reshape(
        size, size, *(1,) * len(batch)
    )


def by_matrix(function: Callable[..., np.ndarray], *arguments: Tensor) -> np.ndarray:
    """NumPy's function of each matrix by itself, batch axes last; they must be the same for all arguments."""
    batch = arguments[0].shape[2:]
    flat = [x.reshape(*x.shape[: x.dim() - len(batch)], -1).numpy() for x in arguments]
    found = [function(*(x[..., k] for x in flat)) for k in range(flat[0].shape[-1])]
    return np.stack(found, -1).reshape((*np.shape(found[0]), *batch))


def close(found: Tensor, expected: np.ndarray) -> None:
    assert found.shape == expected.shape
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-10, atol=1e-10 * np.abs(expected).max(initial=0.0))


def test_both_ways_of_computing_are_tested():
    assert {size > UNROLLED for size in SIZES} == {True, False} and {UNROLLED, UNROLLED + 1} <= set(SIZES)


@sizes
@batches
def test_factors_are_numpys(size: int, batch: tuple[int, ...]) -> None:
    matrix = positive(size, *batch)
    lower = factor(matrix)
    close(lower, by_matrix(np.linalg.cholesky, matrix))
    close(log_diagonal(lower), by_matrix(lambda a: np.linalg.slogdet(a)[1] / 2, matrix))


@sizes
@batches
@pytest.mark.parametrize("columns", [None, 1, 3])
def test_solves_are_numpys(size: int, batch: tuple[int, ...], columns: int | None) -> None:
    """Of several right-hand sides, or of a vector."""
    lower = factor(positive(size, *batch))
    right = normal(*((size,) if columns is None else (size, columns)), *batch, seed=2)
    close(solve_lower(lower, right), by_matrix(np.linalg.solve, lower, right))
    close(solve_upper(lower, right), by_matrix(lambda a, b: np.linalg.solve(a.T, b), lower, right))


@sizes
@pytest.mark.parametrize(("left", "right"), [((1, 4), (3, 4)), ((3, 1), (3, 4)), ((3, 4), (1, 4)), ((3, 4), (3, 1))])
def test_batch_axes_broadcast(size: int, left: tuple[int, ...], right: tuple[int, ...]) -> None:
    whole = np.broadcast_shapes(left, right)
    lower, b = factor(positive(size, *left)), normal(size, 2, *right, seed=3)
    every = lower.expand(size, size, *whole).contiguous(), b.expand(size, 2, *whole).contiguous()
    for function in (solve_lower, solve_upper, product):
        torch.testing.assert_close(function(lower, b), function(*every), rtol=1e-12, atol=1e-12)
    vector = normal(size, *right, seed=3)
    torch.testing.assert_close(
        solve_lower(lower, vector), solve_lower(every[0], vector.expand(size, *whole)), rtol=1e-12, atol=1e-12
    )


@sizes
@batches
def test_products_are_numpys(size: int, batch: tuple[int, ...]) -> None:
    left, right = normal(size, 4, *batch), normal(4, 2, *batch, seed=1)
    close(product(left, right), by_matrix(np.matmul, left, right))
    other = normal(size, 2, *batch, seed=2)
    close(product(left, other, transpose=True), by_matrix(lambda a, b: a.T @ b, left, other))


def test_a_product_over_nothing_is_zero() -> None:
    assert torch.equal(product(normal(3, 0, 1, 5), normal(0, 2, 4, 5)), torch.zeros(3, 2, 4, 5, dtype=torch.float64))
    assert torch.equal(log_diagonal(normal(0, 0, 4, 5)), torch.zeros(4, 5, dtype=torch.float64))


@sizes
@batches
def test_inverses_are_numpys(size: int, batch: tuple[int, ...]) -> None:
    matrix = positive(size, *batch)
    entries, half = inverse(packed(matrix), size)
    assert len(entries) == size * (size + 1) // 2
    whole = torch.stack(entries)[square_index(size, CPU)]
    close(whole, by_matrix(np.linalg.inv, matrix))
    close(half, by_matrix(lambda a: np.linalg.slogdet(a)[1] / 2, matrix))


@sizes
@batches
def test_packed_entries_find_their_places(size: int, batch: tuple[int, ...]) -> None:
    """The upper triangle row by row, as NumPy lists it."""
    matrix = positive(size, *batch)
    entries, (a, b) = packed(matrix), np.triu_indices(size)
    assert torch.equal(entries, matrix[a, b])
    assert torch.equal(entries[square_index(size, CPU)], matrix)


@sizes
def test_what_is_not_positive_definite_is_nan_and_alone_is(size: int) -> None:
    matrix = positive(size, 5)
    good = factor(matrix)
    matrix[-1, -1, 1] = -1.0  # the last pivot is negative
    matrix[0, 0, 3] = -1.0  # the first
    matrix[:, :, 4] = torch.nan
    found = factor(matrix)
    bad = torch.tensor([False, True, False, True, True])
    assert torch.equal(found[-1, -1].isnan(), bad)
    assert torch.equal(log_diagonal(found).isnan(), bad)
    torch.testing.assert_close(found[..., ~bad], good[..., ~bad])
    right = normal(size, 2, 5)
    assert torch.equal(solve_lower(found, right)[-1].isnan().all(0), bad)


@pytest.mark.parametrize("size", SIZES[1:])
def test_a_singular_matrix_has_no_finite_determinant(size: int) -> None:
    assert not bool(log_diagonal(factor(torch.ones(size, size, 1, dtype=torch.float64))).isfinite().any())


@pytest.mark.parametrize("size", SIZES)
def test_single_precision_stays_single_precision(size: int) -> None:
    matrix = positive(size, 7)
    low, right = factor(matrix.float()), normal(size, 2, 7)
    expected = factor(matrix)
    for found, exact in (
        (low, expected),
        (solve_lower(low, right.float()), solve_lower(expected, right)),
        (solve_upper(low, right.float()), solve_upper(expected, right)),
        (log_diagonal(low), log_diagonal(expected)),
        (inverse(packed(matrix.float()), size)[0][0], inverse(packed(matrix), size)[0][0]),
    ):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), exact, rtol=1e-3, atol=1e-4)


@sizes
def test_gradients(size: int) -> None:
    """By finite differences, of everything that a density is made of."""

    def squared(root: Tensor) -> Tensor:
        eye = torch.eye(size, dtype=torch.float64).reshape(size, size, 1)
        return product(root, root.transpose(0, 1)) + 0.5 * eye

    def whole(root: Tensor, right: Tensor) -> tuple[Tensor, ...]:
        lower = factor(squared(root))
        return lower, log_diagonal(lower), solve_lower(lower, right), solve_upper(lower, right)

    def inverted(root: Tensor) -> tuple[Tensor, ...]:
        entries, half = inverse(packed(squared(root)), size)
        return *entries, half

    root = normal(size, size, 2).requires_grad_()
    right = normal(size, 2, 2, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(whole, (root, right), fast_mode=size > 3)
    assert torch.autograd.gradcheck(inverted, (root,), fast_mode=size > 3)


def test_arguments_are_left_alone() -> None:
    for size in SIZES:
        matrix, right = positive(size, 4), normal(size, 2, 4)
        kept, lower = matrix.clone(), factor(matrix)
        before = lower.clone(), right.clone()
        inverse(packed(matrix), size), solve_lower(lower, right), solve_upper(lower, right), product(lower, right)
        assert torch.equal(matrix, kept) and torch.equal(lower, before[0]) and torch.equal(right, before[1])

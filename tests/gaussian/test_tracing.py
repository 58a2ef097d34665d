"""What is traced of single operations, of whole functions written at random, and of all ways by which values leave."""

import copy
import math
import pickle
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal, Normal, StudentT

import hiertorch as ht
from hiertorch.gaussian.terms import Sum, Term, added, are_smooth, degree, product, reads, unknown, unknown_function
from hiertorch.gaussian.tracing import Trace

CHAINS, ROWS, GROUPS = 3, 12, 4
GENERATOR = torch.Generator().manual_seed(3)
X = torch.randn(ROWS, generator=GENERATOR, dtype=torch.float64)
M = torch.randn(GROUPS, GROUPS, generator=GENERATOR, dtype=torch.float64)
CODES = torch.randint(GROUPS, (ROWS,), generator=GENERATOR)
LATE = X > 0.0
LATENTS = ("b", "k", "a", "e")


class Given:
    """Latents: numbers b and k > 0, effects a of groups, a vector e."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.__dict__.update(tensors)


def values(seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(CHAINS, *shape, generator=generator, dtype=torch.float64)

    return {"b": normal(1), "k": normal(1).exp(), "a": normal(GROUPS), "e": normal(1, GROUPS)}


def traced(function: Callable[[Any], Any]) -> Sum:
    tensors = values()
    run = Trace(CHAINS, tensors)
    with torch.no_grad(), run:
        found = function(Given(tensors))
    return run.result(found).terms


def order(terms: Sum, *names: str) -> int:
    return max((degree(term, names) for term in terms), default=0)


# Operations, by what they are in b: 0 if they don't read it, 1 if affine, 2 otherwise; and with jumps or kinks or not

OPERATIONS: dict[str, tuple[Callable[[Any], Tensor], int]] = {
    "nothing": (lambda v: X * 2.0, 0),
    "shape alone": (lambda v: X * v.b.shape[0] + v.b.size(0) + len(v.b) + v.b.dim(), 0),
    "zeros like": (lambda v: torch.zeros_like(v.b) + X, 0),
    "new": (lambda v: v.b.new_ones(CHAINS, ROWS) * X + v.b.new_tensor([1.0]), 0),
    "times data": (lambda v: v.b * X, 1),
    "line": (lambda v: (v.b - 3.0) * X / 2.0 + X, 1),
    "neg": (lambda v: -(1.0 - v.b), 1),
    "rsub": (lambda v: torch.rsub(v.b, X, alpha=2.0), 1),
    "expanded": (lambda v: v.b.expand(CHAINS, ROWS).clone().contiguous(), 1),
    "reshaped": (lambda v: v.b.unsqueeze(-1).transpose(1, 2).reshape(CHAINS, 1, 1).flatten(1).squeeze(-1), 1),
    "detached": (lambda v: v.b.detach() + v.b.data, 1),
    "stacked": (lambda v: torch.stack([v.b, v.k.exp()], -1).sum(-1), 1),
    "cat": (lambda v: torch.cat([v.b, torch.zeros(CHAINS, 3, dtype=torch.float64)], 1), 1),
    "einsum": (lambda v: torch.einsum("ca,r->cr", v.b, X), 1),
    "linear": (lambda v: nn.functional.linear(v.b, X[:, None], X), 1),
    "addmm": (lambda v: torch.addmm(X, v.b, X[None]), 1),
    "matrix product": (lambda v: (v.b.expand(CHAINS, GROUPS).unsqueeze(1) @ M).squeeze(1), 1),
    "cumulated": (lambda v: (v.b * X).cumsum(-1), 1),
    "mean": (lambda v: (v.b * X).mean(-1, keepdim=True), 1),
    "rolled": (lambda v: (v.b * X).roll(1, -1).flip(-1), 1),
    "triangle": (lambda v: (v.b.unsqueeze(-1) * M).tril(-1).sum(-1), 1),
    "diagonal": (lambda v: (v.b * M[0]).diag_embed().diagonal(dim1=-2, dim2=-1), 1),
    "indexed by data": (lambda v: (v.b * M[0])[:, CODES], 1),
    "selected": (lambda v: (v.b * M[0]).index_select(1, CODES).gather(1, CODES.expand(CHAINS, -1) * 2), 1),
    "embedding": (lambda v: nn.functional.embedding(CODES, (v.b * M[0]).mT).sum(-1).expand(CHAINS, -1), 1),
    "added by index": (lambda v: torch.zeros(CHAINS, GROUPS).double().index_add(1, CODES, v.b * X), 1),
    "scattered": (lambda v: torch.zeros(CHAINS, GROUPS).double().scatter_add(1, CODES.expand(CHAINS, -1), v.b * X), 1),
    "chosen by data": (lambda v: torch.where(LATE, v.b, 0.0), 1),
    "masked by data": (lambda v: (v.b * X).masked_fill(LATE, 1.0), 1),
    "lerp by data": (lambda v: torch.lerp(v.b.expand(CHAINS, ROWS), X.expand(CHAINS, -1), X.sigmoid()), 1),
    "lerp by b": (lambda v: torch.lerp(X.expand(CHAINS, -1), 2 * X.expand(CHAINS, -1), v.b.expand(CHAINS, ROWS)), 1),
    "addcmul": (lambda v: torch.addcmul(X, v.b, X, value=2.0), 1),
    "addcdiv": (lambda v: torch.addcdiv(X, v.b, X), 1),
    "solved with data": (lambda v: torch.linalg.solve(M, (v.b * M[0]).unsqueeze(-1)).squeeze(-1), 1),
    "triangular": (lambda v: torch.linalg.solve_triangular(M, (v.b * M[0]).unsqueeze(-1), upper=True).squeeze(-1), 1),
    "times k": (lambda v: v.b * X / (X.square() + v.k) + v.k.exp(), 1),
    "cancels": (lambda v: (v.b + X) - v.b, 0),
    "does not cancel": (lambda v: (v.b * X + X) - v.b * X, 1),
    "in place": (lambda v: X.clone().expand(CHAINS, -1).clone().add_(v.b).mul_(2.0), 1),
    "out": (lambda v: torch.add(v.b, X, out=torch.empty(CHAINS, ROWS, dtype=torch.float64)), 1),
    "to a row": (lambda v: _filled(v.b), 1),
    "as integers": (lambda v: v.b.long().double(), 2),
    "as float32": (lambda v: v.b.float().double(), 2),
    "rounded": (lambda v: v.b.round() + X, 2),
    "square": (lambda v: v.b**2, 2),
    "product": (lambda v: v.b * v.b, 2),
    "exp": (lambda v: v.b.exp(), 2),
    "within": (lambda v: v.a / (1.0 + v.b.square()), 2),
    "divided by": (lambda v: X / v.b, 2),
    "clamp": (lambda v: v.b.clamp(max=3.0), 2),
    "relu": (lambda v: nn.functional.relu(v.b - 3.0), 2),
    "abs": (lambda v: v.b.abs(), 2),
    "maximum": (lambda v: torch.maximum(v.b, X), 2),
    "max": (lambda v: (v.b * X).amax(-1, keepdim=True), 2),
    "sorted": (lambda v: (v.b * X).sort(-1).values, 2),
    "compared": (lambda v: (v.b > 0.0) * X, 2),
    "chosen by b": (lambda v: torch.where(v.b > 9.0, X, 2 * X), 2),
    "masked by b": (lambda v: X.expand(CHAINS, -1).masked_fill(v.b > 0.0, 0.0), 2),
    "indexed by b": (lambda v: X[(v.b > 0.0).long().squeeze(-1)].unsqueeze(-1), 2),
    "lerp both": (lambda v: torch.lerp(v.b, v.b * 2.0, v.b), 2),
    "floor of quotient": (lambda v: torch.div(v.b, 0.1, rounding_mode="floor"), 2),
    "bits": (lambda v: v.b.view(torch.int64).clone().view(torch.float64), 2),
    "nan to num": (lambda v: v.b.nan_to_num(), 2),
    "solved with": (lambda v: torch.linalg.solve(M * v.b.unsqueeze(-1), M[0]), 2),
    "convolution": (lambda v: nn.functional.conv1d(X[None, None], v.b[:1, :, None]).squeeze(0).expand(CHAINS, -1), 2),
    "vmap": (lambda v: torch.vmap(lambda b: b * X)(v.b), 1),
    "vmap of a kink": (lambda v: torch.vmap(lambda b: (b * X).clamp(min=0.0))(v.b), 2),
    "autograd function": (lambda v: _Twice.apply(v.b), 1),
    "script": (lambda v: _scripted(v.b), 2),
    "copied": (lambda v: copy.deepcopy(v.b * X), 2),
    "copied kink": (lambda v: copy.deepcopy(v.b.clamp(max=2.0)), 2),
}


def _filled(b: Tensor) -> Tensor:
    found = torch.zeros(CHAINS, ROWS, dtype=torch.float64)
    for i in range(ROWS):
        found[:, i] = b[:, 0] * X[i] + (found[:, i - 1] if i else 0.0)
    return found


class _Twice(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return 2.0 * x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return 2.0 * grad


@torch.jit.script
def _scripted(x: Tensor) -> Tensor:
    if bool((x > 100.0).any()):
        return x * x
    return x


@pytest.mark.parametrize("name", OPERATIONS)
def test_the_degree_of_an_operation(name: str) -> None:
    function, expected = OPERATIONS[name]
    found = traced(function)
    assert order(found, "b") == expected, found
    assert (expected > 0) == ("b" in reads(found))


@pytest.mark.parametrize(
    ("function", "smooth"),
    [
        (lambda v: v.k.exp() * X, True),
        (lambda v: (v.k * X).softmax(-1), True),
        (lambda v: torch.linalg.cholesky(M @ M.mT * v.k.unsqueeze(-1)), True),
        (lambda v: nn.functional.softplus(v.k * X), True),
        (lambda v: nn.functional.softplus(v.k * X, threshold=1.0), False),
        (lambda v: (v.k * X - 3.0).relu(), False),
        (lambda v: torch.special.bessel_j0(v.k * X), False),  # in no list
        (lambda v: (v.k - 3.0).relu() * X, True),  # in the number relu(k - 3)
        (lambda v: ((v.k - 3.0).relu() * X).exp() * v.b, True),
        (lambda v: torch.where(LATE, v.k, v.k.clamp(max=100.0)), False),  # the same where k < 100
        (lambda v: torch.where(LATE, v.k.clamp(max=99.0), v.k.clamp(max=100.0)), False),
        (lambda v: torch.where(LATE, v.b.clamp(max=99.0), v.k.clamp(max=100.0)), True),
    ],
)
def test_whether_spread_values_tell_a_function(function: Callable[[Any], Tensor], smooth: bool) -> None:
    found = traced(function)
    assert "k" in reads(found)
    assert are_smooth(found) is smooth


# What leaves torch may be in everything from there on

ESCAPES: dict[str, Callable[[Any], Any]] = {
    "item": lambda v: v.b[0, 0].item(),
    "float": lambda v: float(v.b[0, 0]),
    "int": lambda v: int(v.b[0, 0]),
    "index": lambda v: [1, 2, 3][v.b[0, 0].long().clamp(0, 2)],
    "branch": lambda v: 1 if v.b[0, 0] > 0.0 else 2,
    "any": lambda v: bool((v.b > 0.0).any()),
    "in": lambda v: 3.0 in v.b,
    "max of a list": lambda v: max(v.b[:, 0]),
    "math": lambda v: math.exp(v.b[0, 0]),
    "numpy": lambda v: v.b.numpy(),
    "asarray": lambda v: np.asarray(v.b),
    "function of NumPy": lambda v: np.exp(v.b),
    "list": lambda v: v.b.tolist(),
    "tensor of numbers": lambda v: torch.tensor([v.b[0, 0], 1.0]),
    "as tensor": lambda v: torch.as_tensor([v.b[0, 0]]),
    "new tensor": lambda v: X.new_tensor([v.b[0, 0]]),
    "Tensor": lambda v: torch.Tensor([v.b[0, 0]]),
    "full": lambda v: torch.full((3,), v.b[0, 0]),
    "alpha": lambda v: torch.add(X, X, alpha=v.b[0, 0]),
    "pointer": lambda v: v.b.data_ptr(),
    "storage": lambda v: v.b.untyped_storage(),
    "dlpack": lambda v: np.from_dlpack(v.b),
    "pickle": lambda v: pickle.dumps(v.b),
    "text": lambda v: f"{v.b[0, 0]:.3f}",
    "repr": lambda v: repr(v.b),
    "equal": lambda v: torch.equal(v.b, v.k),
    "close": lambda v: torch.allclose(v.b, v.k),
    "entry by entry": lambda v: v.b.clone().apply_(lambda x: max(x, 0.0)).sum().item(),
    "number of positive ones": lambda v: X[: len(v.b[v.b > 0.0])],
    "places": lambda v: len((v.b > 0.0).nonzero()),
    "unique": lambda v: len(v.b.round().unique()),
    "split": lambda v: X.tensor_split(v.b[:, 0].long().clamp(1, 3))[0].shape,
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ESCAPES)
def test_what_leaves_torch_is_in_all_results(name: str) -> None:
    def function(v: Any) -> Tensor:
        ESCAPES[name](v)
        return v.a[:, CODES] * X

    found = traced(function)
    assert order(found, "b") == 2 and not are_smooth(found)
    assert order(found, "a") == 1


def test_what_code_keeps_is_followed() -> None:
    kept = []

    def function(v: Any) -> Tensor:
        kept.append(v.b.exp())
        return v.a[:, CODES] + kept[0]

    assert order(traced(function), "b") == 2


def test_an_entry_that_python_writes_is_a_kink() -> None:
    assert order(traced(lambda v: (v.b * X).apply_(lambda x: max(x, 0.0))), "b") == 2


def test_a_buffer_keeps_what_was_written_to_any_part_of_it() -> None:
    buffer = torch.zeros(CHAINS, ROWS, dtype=torch.float64)

    def function(v: Any) -> Tensor:
        buffer[:, 3:5] = v.b.square()
        return buffer.view(-1)[:CHAINS].unsqueeze(-1)

    assert order(traced(function), "b") == 2


# Sums of terms


def test_terms_multiply_and_add() -> None:
    b, k = unknown("b", number=True), unknown("k", number=True)
    assert product(b, k) == {Term(("b", "k"))}
    assert product(product(b, b), b) == {Term(("b", "b"))}
    assert added(b, [Term(("b",), times=-1.0)]) == frozenset()
    assert added(unknown("a", number=False), [Term(("a",), times=-1.0)]) == {Term(("a",))}
    assert unknown_function(added(b, k)) == {Term((), frozenset("bk"))}
    assert degree(Term(("b", "k")), {"b", "k"}) == 2 and degree(Term(("b", "k")), {"b"}) == 1
    assert degree(Term(("b",), frozenset("b")), {"b"}) == 2


def test_a_long_sum_becomes_an_unknown_function() -> None:
    names = [f"x{i}" for i in range(50)]
    whole = frozenset(Term((name,)) for name in names)
    found = product(whole, whole)
    assert reads(found) == set(names) and not are_smooth(found) and order(found, "x3") == 2


# Functions written at random, against differences of their values

UNARY: list[Callable[[Tensor], Tensor]] = [
    torch.exp, torch.tanh, torch.neg, torch.square, torch.abs, torch.relu, torch.round, torch.sigmoid, torch.sin,
    lambda x: x.clamp(-0.5, 0.5), lambda x: x * 3.0, lambda x: x + 2.0, lambda x: 1.0 - x, lambda x: x / 4.0,
    lambda x: x.cumsum(-1), lambda x: x.flip(-1), lambda x: x.mean(-1, keepdim=True), lambda x: x.sum(-1, keepdim=True),
    lambda x: x.expand(CHAINS, ROWS)[:, CODES], lambda x: torch.where(x > 0.3, x, 0.0), lambda x: x.clone().mul_(2.0),
    lambda x: torch.where(LATE, x, 0.0), lambda x: x.masked_fill(LATE, 1.0), lambda x: x.float().double(),
    lambda x: x.sort(-1).values, lambda x: x.softmax(-1), lambda x: x.expand(CHAINS, ROWS) @ torch.outer(X, X),
    lambda x: x.amax(-1, keepdim=True), lambda x: x.detach(), lambda x: x**2, lambda x: x.pow(1), lambda x: x.sign(),
    lambda x: x.diff(dim=-1, prepend=x[..., :1]), lambda x: torch.nn.functional.pad(x, (1, 0))[:, :-1],
    lambda x: x.expand(CHAINS, ROWS).clone().index_fill_(1, CODES, 0.0), lambda x: x.logsumexp(-1, keepdim=True),
]  # fmt: skip
BINARY: list[Callable[[Tensor, Tensor], Tensor]] = [
    torch.add, torch.sub, torch.mul, torch.maximum, lambda x, y: x / (1.0 + y.square()),
    lambda x, y: torch.where(LATE, x, y),
    lambda x, y: torch.where(x > y, x, y), lambda x, y: torch.stack(torch.broadcast_tensors(x, y), -1).sum(-1),
    lambda x, y: torch.lerp(x.expand(CHAINS, ROWS), y.expand(CHAINS, ROWS), X.expand(CHAINS, -1)),
    lambda x, y: torch.addcmul(x, y, X), lambda x, y: x.expand(CHAINS, ROWS).clone().add_(y), torch.hypot,
    lambda x, y: torch.cat([x[:, :1], y.expand(CHAINS, ROWS)[:, 1:]], 1), lambda x, y: (x * y).sum(-1, keepdim=True),
    lambda x, y: x.expand(CHAINS, ROWS).clone().copy_(y), lambda x, y: torch.fmod(x, y.abs() + 1.0),
]  # fmt: skip


def written_at_random(seed: int) -> Callable[[Any], Tensor]:
    """A function of b, k, a and e by some operations."""
    rng = np.random.default_rng(seed)
    plan = [
        (rng.random() < 0.45, int(rng.integers(len(UNARY))), int(rng.integers(len(BINARY))), rng.random(2))
        for _ in range(int(rng.integers(2, 9)))
    ]

    def function(v: Any) -> Tensor:
        found = [v.b, v.k, v.a[:, CODES], v.e[:, 0][:, CODES], X.expand(CHAINS, -1).clone(), v.b * X, v.k.log()]
        for unary, i, j, at in plan:
            x, y = (found[int(u * len(found)) if u < 0.6 else -1] for u in at)
            found.append(UNARY[i](x) if unary else BINARY[j](x, y))
        return found[-1]

    return function


def differs(x: Tensor, y: Tensor, size: Tensor) -> bool:
    return bool(((x - y).abs() > 1e-9 * (1.0 + size.abs().amax())).any())


def test_functions_written_at_random_are_what_the_trace_says() -> None:
    """What is not read changes nothing; what is affine has no second difference, at any of many places."""
    affine = unread = curved = 0
    for seed in range(120):
        function = written_at_random(seed)
        terms = traced(function)
        for names in (("b",), ("k",), ("a",), ("e",), ("a", "e"), ("b", "a", "e")):
            said, bends, changes = order(terms, *names), False, False
            for place in range(3):
                start, other = values(place), values(place + 10)
                steps = [
                    function(Given({n: x + s * other[n] if n in names else x for n, x in start.items()}))
                    for s in (0.0, 1.0, 2.0)
                ]
                if not all(bool(torch.isfinite(x).all()) for x in steps):
                    continue
                changes |= bool(((steps[0] - steps[1]).abs() > 1e-12).any())  # x + k - k rounds
                bends |= differs(
                    steps[1] - steps[0],
                    steps[2] - steps[1],
                    torch.stack([x.broadcast_to(steps[0].shape) for x in steps]),
                )
            assert said > 0 or not changes, (seed, names, terms)
            assert said > 1 or not bends, (seed, names, terms)
            affine, unread, curved = affine + (said == 1), unread + (said == 0), curved + bends
    assert min(affine, unread, curved) > 100  # or nothing was tried


def test_powers_of_functions_written_at_random_are_what_the_trace_says() -> None:
    """Where all unknowns are positive, f at one place is f at another one times a product of powers of their ratios."""

    def positive(seed: int) -> dict[str, Tensor]:
        return {name: x.abs() + 0.1 for name, x in values(seed).items()}

    found = 0
    for seed in range(600):
        function, tensors = written_at_random(seed), positive(0)
        run = Trace(CHAINS, tensors)
        with torch.no_grad(), run:
            result = function(Given(tensors))
        if (powers := run.result(result).powers) is None:
            continue
        for place in range(1, 4):
            here, there = positive(0), positive(place)
            ratio = torch.ones(CHAINS, 1, dtype=torch.float64)
            for name, power in powers:
                ratio = ratio * (there[name] / here[name]) ** power
            before, after = (function(Given(x)) for x in (here, there))
            if all(bool(torch.isfinite(x).all()) for x in (before, after)):
                assert not differs(after, before * ratio, after), (seed, powers)
        found += bool(powers)
    assert found > 30  # or nothing was tried


@pytest.mark.parametrize(
    "function, powers",
    [
        (lambda v: torch.linalg.cholesky(v.k.unsqueeze(-1) ** 2 * (M @ M.mT)), {"k": 1.0}),
        (lambda v: torch.linalg.cholesky((M @ M.mT) / v.k.sqrt().unsqueeze(-1)), {"k": -0.25}),
        (lambda v: v.k**3 * X / v.b, {"k": 3.0, "b": -1.0}),
        (lambda v: (v.k / v.k) * X, {}),
        (lambda v: v.k.exp() * X, None),
        (lambda v: v.k * X + X, None),
        (lambda v: v.k * X + v.k, None),
        (lambda v: 2.0**v.k * X, None),
        (lambda v: torch.linalg.cholesky(v.k.unsqueeze(-1) * (M @ M.mT) + M @ M.mT), None),
        (lambda v: (v.k * X).exp(), None),
        (lambda v: v.e * X[:GROUPS], None),
        (lambda v: X * float(v.k.sum()), None),
    ],
)
def test_powers(function: Callable[[Any], Tensor], powers: dict[str, float] | None) -> None:
    tensors = values()
    run = Trace(CHAINS, tensors)
    with torch.no_grad(), run:
        found = function(Given(tensors))
    known = run.result(found).powers
    assert (None if known is None else dict(known)) == powers


# The model's pieces


class Line(ht.Model):
    """y = a_j + b x."""

    mu = ht.Latent(Normal(0.0, 1.0))
    b = ht.Latent(Normal(0.0, 1.0))
    a = ht.Latent(lambda v: Normal(v.mu, 1.0), plate="g")

    def likelihood(self, v, d):
        return Normal(v.a[:, d.g] + v.b * d.x, 1.0)


def data(**more: Any) -> ht.Data:
    rng = np.random.default_rng(0)
    return ht.Data(rng.normal(size=24), groups={"g": np.arange(24) % 4}, x=rng.normal(size=24), **more)


def reason(model: ht.Model, of: ht.Data | None = None) -> str:
    found = ht.plan(model, of or data())
    return "" if found.collapsed else str(found)


def test_a_plain_model_is_collapsed() -> None:
    assert reason(Line()) == ""


def changed(**parts: Any) -> ht.Model:
    return type("Changed", (Line,), parts)()


@pytest.mark.parametrize(
    "likelihood",
    [
        lambda self, v, d: Normal(v.a[:, d.g] + v.b.clamp(max=3.0) * d.x, 1.0),
        lambda self, v, d: Normal(v.a[:, d.g] + torch.relu(v.b - 30.0) * d.x, 1.0),
        lambda self, v, d: Normal(v.a[:, d.g] + (v.b * 1e6).round() * 1e-6 * d.x, 1.0),
        lambda self, v, d: Normal(v.a[:, d.g] + torch.where(v.b > 50.0, 2 * v.b, v.b) * d.x, 1.0),
        lambda self, v, d: Normal(v.a[:, d.g].clamp(-40.0, 40.0) + v.b * d.x, 1.0),
        lambda self, v, d: Normal(v.a[:, d.g] + v.b * d.x, 1.0 + torch.relu(v.b - 30.0)),
        lambda self, v, d: Normal(v.a[:, d.g] + v.b * d.x, 1.0 + torch.relu(v.a[:, d.g] - 30.0)),
        lambda self, v, d: Normal(v.a[:, d.g] + v.b * d.x, 1.0 if float(v.b.abs().amax()) < 50.0 else 2.0),
        lambda self, v, d: (Normal if bool((v.b.abs() < 50.0).all()) else heavy)(v.a[:, d.g] + v.b * d.x, 1.0),
        lambda self, v, d: Normal(v.a[:, d.g] + torch.from_numpy(np.minimum(v.b.numpy(), 30.0)) * d.x, 1.0),
    ],
)
def test_a_kink_beyond_all_probes_is_not_collapsed(likelihood: Callable[..., Any]) -> None:
    """Or only what does not have it: b is then sampled, a integrated out."""
    plan = ht.plan(changed(likelihood=likelihood), data())
    if plan.collapsed is not None:
        assert "b" in plan.collapsed.rest


def heavy(loc: Tensor, scale: float) -> StudentT:
    return StudentT(1.0, loc, scale)


def test_a_prior_whose_scale_has_a_kink_far_out_is_not_taken_for_constant() -> None:
    prior = ht.Latent(lambda v: Normal(v.mu, 1.0 + torch.relu(v.b - 30.0)), plate="g")
    plan = ht.plan(changed(a=prior), data())
    assert plan.collapsed is not None and plan.collapsed.rest == ("b",)


def test_a_clamped_scale_of_rows_is_one_factor() -> None:
    class Clamped(Line):
        sigma = ht.Latent(Normal(0.0, 1.0))

        def likelihood(self, v, d):
            return Normal(v.a[:, d.g] + v.b * d.x, v.sigma.exp().clamp(min=1e-3))

    assert reason(Clamped()) == ""


def test_scales_of_two_kinds_of_rows_that_are_clamped_may_differ_anywhere() -> None:
    class Clamped(Line):
        sigma = ht.Latent(Normal(0.0, 1.0))

        def likelihood(self, v, d):
            sigma = v.sigma.exp()
            return Normal(v.a[:, d.g] + v.b * d.x, torch.where(d.x > 0, sigma.clamp(max=1e6), sigma))

    assert "kinks" in reason(Clamped())


def test_what_is_read_and_seen_to_change_nothing_is_refused() -> None:
    """A step of a logistic curve that lies beyond all probes: coefficients are the same at all of them."""

    class Step(Line):
        k = ht.Latent(Normal(0.0, 1.0))

        def likelihood(self, v, d):
            return Normal(v.a[:, d.g] + v.b * torch.sigmoid(1e3 * (v.k - 1e3)) * 0.0 + v.b * d.x, 1.0)

    found = ht.plan(Step(), data())
    assert found.collapsed is None or "k" not in found.collapsed.rest
    assert "seen to change" in str(found) or "not affine" in str(found)


def test_the_mean_of_a_prior_with_a_full_covariance_is_followed() -> None:
    class Vector(ht.Model):
        mu = ht.Latent(Normal(0.0, 1.0), event=2)
        tau = ht.Latent(Normal(0.0, 1.0))
        a = ht.Latent(
            lambda v: MultivariateNormal(v.mu, v.tau.exp()[..., None, None] * torch.eye(2, dtype=torch.float64)),
            plate="g",
        )

        def likelihood(self, v, d):
            return Normal(v.a[:, d.g, 0] + v.a[:, d.g, 1] * d.x, 1.0)

    plan = ht.plan(Vector(), data())
    assert plan.collapsed is not None and plan.collapsed.rest == ("tau",)


def test_nothing_is_left_of_a_trace() -> None:
    """No mode, no tensor that is more than one, and the caller's random numbers as they were."""
    model, before = Line(), torch.get_rng_state()
    kept: list[Tensor] = []
    model.likelihood = lambda v, d: kept.append(v.b) or Line.likelihood(model, v, d)  # type: ignore[assignment]
    ht.plan(model, data())
    assert all(type(x) is Tensor for x in kept)
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.utils._python_dispatch.is_in_torch_dispatch_mode()


def test_what_another_thread_computes_is_not_taken_for_constant() -> None:
    """No mode sees it; that something unread changes the model is seen."""
    pool = ThreadPoolExecutor(1)

    class Elsewhere(Line):
        k = ht.Latent(StudentT(4.0, 0.0, 1.0))

        def likelihood(self, v, d):
            return Normal(v.a[:, d.g] + pool.submit(lambda: v.b * d.x * v.k.exp()).result(), 1.0)

    assert "can't be followed" in reason(Elsewhere())
    pool.shutdown()

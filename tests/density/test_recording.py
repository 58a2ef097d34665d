"""Recorded functions of tensors: the same numbers, without the Python; what can't be recorded runs as written."""

import logging
import os
import shutil

import pytest
import torch
from torch import fx
from torch.distributions import Gamma, Normal

from hiertorch.density.recording import record
from hiertorch.errors import SamplingWarning

COMPILER = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def calls(graph):
    return [node.target for node in graph.graph.nodes if node.op == "call_function"]


X = numbers(40)
CODES = torch.arange(40) % 7


def density(alpha, sigma):
    """What pieces are like: distributions, columns, codes, and constants computed from columns."""
    scaled = (X - X.mean()) / X.std()
    return Normal(alpha[:, CODES] + scaled, sigma, validate_args=False).log_prob(X**2).sum(1)


def test_replayed_numbers_are_those_of_the_function():
    graph = record(density, (numbers(3, 7), numbers(3, 1).exp()))
    assert isinstance(graph, fx.GraphModule)
    for seed in range(1, 4):
        args = numbers(3, 7, seed=seed), numbers(3, 1, seed=seed).exp()
        torch.testing.assert_close(graph(*args), density(*args), rtol=1e-12, atol=1e-12)


def test_what_depends_on_constants_alone_is_computed_once():
    graph = record(density, (numbers(3, 7), numbers(3, 1).exp()))
    names = {str(target) for target in calls(graph)}
    assert not any("mean" in name or "std" in name for name in names)
    assert sum("log" in name for name in names) == 1


def test_what_is_written_twice_is_computed_once():
    def twice(x):
        return x.exp() + x.exp() * x.exp().sum(1, keepdim=True)

    graph = record(twice, (numbers(3, 4),))
    assert sum("exp" in str(target) and "expand" not in str(target) for target in calls(graph)) == 1
    x = numbers(3, 4, seed=1)
    torch.testing.assert_close(graph(x), twice(x))


def test_arguments_are_not_changed():
    x = numbers(3, 4)
    before = x.clone()
    graph = record(lambda x: x.clone().add_(1.0), (x,))
    torch.testing.assert_close(graph(x), before + 1.0)
    assert torch.equal(x, before)


def test_in_place_arithmetic_is_not_merged():
    """Two buffers that start alike are filled differently."""

    def buffers(x):
        first, second = torch.zeros_like(x), torch.zeros_like(x)
        first.add_(x)
        second.sub_(x)
        return first * 2 + second

    x = numbers(3, 4)
    torch.testing.assert_close(record(buffers, (numbers(3, 4, seed=1),))(x), x)


def test_random_numbers_stay_random():
    graph = record(lambda x: x + torch.rand_like(x) + torch.rand(3, dtype=torch.float64), (numbers(3),))
    x = numbers(3)
    assert not torch.equal(graph(x), graph(x))


def test_functions_without_arguments_or_results():
    assert record(lambda: None, ())() is None
    torch.testing.assert_close(record(lambda: X.exp(), ())(), X.exp())


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x if x.sum() > 0 else -x,
        lambda x: x * int(x.sum() > 0) - x * int(x.sum() <= 0),
        lambda x: torch.as_tensor(abs(x.sum().item())) * x / x.sum(),
    ],
)
def test_branches_on_values_run_as_written(function, caplog):
    x = torch.tensor([1.0, 2.0])
    with caplog.at_level(logging.INFO, logger="hiertorch"):
        found = record(function, (x,))
    assert found is function
    assert "a piece of the density runs as written, since it can't be recorded" in caplog.text
    for args in (x, -x):
        torch.testing.assert_close(found(args), args.abs())


def test_errors_of_the_function_itself_come_when_it_is_called():
    def wrong(x):
        raise ValueError("not mine")

    with pytest.raises(ValueError, match="not mine"):
        record(wrong, (numbers(2),))(numbers(2))


def test_a_failure_to_compile_is_a_warning(monkeypatch):
    def fails(*args, **kwargs):
        raise RuntimeError("no compiler here")

    monkeypatch.setattr(torch, "compile", lambda graph, **options: fails)
    with pytest.warns(SamplingWarning, match=r"torch.compile failed, so sampling goes on without it: no compiler here"):
        graph = record(density, (numbers(3, 7), numbers(3, 1).exp()), compiled=True)
    args = numbers(3, 7, seed=1), numbers(3, 1, seed=1).exp()
    torch.testing.assert_close(graph(*args), density(*args))


@pytest.mark.slow
@pytest.mark.skipif(not COMPILER, reason="needs a C++ compiler")
def test_compiled_numbers_in_any_memory_layout():
    """Compiled for one layout; others are laid out anew, without compiling again."""

    def gamma(x, rate):
        return Gamma(2.0, rate, validate_args=False).log_prob(x.exp() + X[:5].exp()).sum(1)

    example = numbers(6, 5), numbers(6, 1).exp()
    graph = record(gamma, example, compiled=True)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for x in (numbers(6, 5, seed=1), numbers(5, 6, seed=2).T, numbers(6, 1, seed=3).expand(6, 5)):
            args = x, numbers(6, 1, seed=4).exp()
            torch.testing.assert_close(graph(*args), gamma(*args), rtol=1e-10, atol=1e-10)


def test_arguments_that_were_one_tensor_at_the_recording_stay_two():
    x, y = numbers(4), numbers(4, seed=1)
    graph = record(lambda a, b: a - 2 * b, (x, x))
    torch.testing.assert_close(graph(x, y), x - 2 * y)

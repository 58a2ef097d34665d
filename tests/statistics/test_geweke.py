"""Every move leaves the posterior invariant: the joint distribution of latents and data stays what it is.

Note [Exact invariance]
Draw (theta, y) from the joint distribution, one pair a chain, and move theta by a kernel that leaves p(theta | y)
invariant: then (theta, y) still has the joint distribution, whatever the kernel's speed (Geweke 2004). Nothing has to
converge, so thousands of chains and a few sweeps show errors that a single posterior would hide, in each move by
itself. Proposals are tuned beforehand on other simulated data and stay as they are.

Note [What is compared]
Functions of theta and y after the sweeps, with 25 times as many exact joint draws: each function is turned into a
normal score by its distribution there, and mean, variance and Kolmogorov-Smirnov distance of the scores are tested,
two-sided, at an error rate of 1e-3 over all kernels, functions and tests of a case (Bonferroni). Standardised effects
and distances between effects and data are among the functions: they see a wrong dependence that leaves every marginal
right.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import torch
from builders import MOVED, PUPILS, plan_for
from references import p_values
from torch import Tensor

import hiertorch as ht
from hiertorch.density.state import State
from hiertorch.density.target import Target
from hiertorch.model.latent import Values
from hiertorch.moves import base, groupwise, metropolis
from hiertorch.moves import joint as joint_move
from hiertorch.moves.metropolis import Tuning
from hiertorch.run.plan import Plan
from hiertorch.run.sweeps import Sweep
from hiertorch.runtime.validating import validation

ALPHA = 1e-3
CHAINS, SWEEPS = 4000, 20
MANY_CHAINS, MANY_SWEEPS = 12_000, 80  # for the slow tests
EXACT = 25  # joint draws to compare with, for each chain


@pytest.fixture(autouse=True, scope="module")
def as_in_sampling() -> Any:
    """Without gradients and argument checks, as `ht.sample` calls targets and moves."""
    with torch.no_grad(), validation(False):
        yield


Moves = tuple[tuple[str, tuple[str, ...]], ...] | None
Functions = dict[str, Tensor]  # name -> (chains,)


def of_intercepts(v: Values, y: Tensor) -> Functions:
    return {
        "beta": v.beta[:, 0, 0],
        "z_0": (v.alpha[:, 0] - v.mu_alpha[:, 0]) / v.sigma_alpha[:, 0],
        "alpha_1 mu": v.alpha[:, 1] * v.mu_alpha[:, 0],
        "alpha_0 - y_0": v.alpha[:, 0] - y[:, 0],
        "mean error": ((y.mean(1) - v.alpha.mean(1)) / v.sigma_y[:, 0]),
        "beta y_9": v.beta[:, 0, 0] * y[:, 9],
        "spread": v.alpha.std(1).log() - y.std(1).log(),
    }


def of_nested(v: Values, y: Tensor) -> Functions:
    return {
        "z_a": (v.a[:, 1] - v.mu[:, 0]) / v.s_a[:, 0],
        "z_b first": (v.b[:, 0] - v.a[:, 0]) / v.s_b[:, 0],
        "z_b last": (v.b[:, -1] - v.a[:, -1]) / v.s_b[:, 0],
        "error": (y[:, 0] - v.b[:, 0]) / v.s_y[:, 0],
        "a - y": v.a[:, 0] - y.mean(1),
        "b spread": v.b.std(1).log() - v.s_b[:, 0].log(),
    }


def of_crossed(v: Values, y: Tensor) -> Functions:
    return {
        "z_a": v.a[:, 0] / v.s_a[:, 0],
        "z_c": v.c[:, -1] / v.s_c[:, 0],
        "error": (y.mean(1) - v.mu[:, 0] - v.a.mean(1)) / v.s_y[:, 0],
        "a c": v.a[:, 0] * v.c[:, 0],
        "a - y": v.a[:, 0] - y[:, 0],
    }


def of_switches(v: Values, y: Tensor) -> Functions:
    return {
        "z_0": (v.alpha[:, 0] - v.mu[:, 0]) / v.sigma[:, 0],
        "alpha_1 mu": v.alpha[:, 1] * v.mu[:, 0],
        "alpha_0 given y": v.alpha[:, 0] * (2 * y[:, 0] - 1),
        "beta given y": v.beta[:, 0] * (2 * y[:, 9] - 1),
        "mu and y": v.mu[:, 0] + y.sum(1),
    }


def of_slopes(v: Values, y: Tensor) -> Functions:
    z = torch.linalg.solve_triangular(v.scale.unsqueeze(-1) * v.root, (v.b - v.mu).unsqueeze(-1), upper=False)
    return {
        "z_00": z[:, 0, 0, 0],
        "z_01": z[:, 0, 1, 0],
        "z z": z[:, 1, 0, 0] * z[:, 1, 1, 0],
        "correlation": v.root[:, 0, 1, 0],
        "mu mu": v.mu[:, 0].prod(-1),
        "b_0 - y_0": v.b[:, 0, 0] - y[:, 0],
        "b_1 y_9": v.b[:, 0, 1] * y[:, 9],
    }


def of_counts(v: Values, y: Tensor) -> Functions:
    return {
        "rate decay": v.rate[:, 0] * v.decay[:, 0],
        "extra rare": v.extra[:, -1] * v.rare[:, 0],
        "rate - y": v.rate[:, 0] - y[:, 0],
        "extra - y": v.extra[:, 0] - y.mean(1),
    }


def of_scales(v: Values, y: Tensor) -> Functions:
    return {
        "z_s": v.s[:, 0].log() - v.m[:, 0],
        "z_a first": (v.a[:, 0] - v.mu[:, 0]) / v.tau[:, 0] / v.s[:, 0],
        "z_a last": (v.a[:, -1] - v.mu[:, 0]) / v.tau[:, 0] / v.s[:, -1],
        "error": (y[:, 0] - v.a[:, 0]) / v.s[:, 0],
    }


def of_stretched(v: Values, y: Tensor) -> Functions:
    return {
        "z": ((v.a[:, 0] - 1) / 2 - v.mu[:, 0]) / v.s[:, 0],
        "a a": v.a[:, 0] * v.a[:, 1],
        "error": (y[:, 0] - v.a[:, 0]) / v.s_y[:, 0],
    }


def of_neighbours(v: Values, y: Tensor) -> Functions:
    return {"a a": v.alpha[:, 0] * v.alpha[:, 1], "a - y": v.alpha[:, 0] - y[:, 0], "a y": v.alpha[:, 0] * y[:, 1]}


@dataclass(frozen=True)
class Case:
    model: ht.Model
    functions: Callable[[Values, Tensor], Functions]  # beside every latent's elements


FUNCTIONS: dict[str, Callable[[Values, Tensor], Functions]] = {
    "varying intercepts": of_intercepts,
    "overridden log_prob": of_intercepts,
    "nested": of_nested,
    "crossed": of_crossed,
    "bernoulli": of_switches,
    "correlated effects": of_slopes,
    "positive effects": of_counts,
    "scales by group": of_scales,
    "transformed effects": of_stretched,
    "neighbours": of_neighbours,
}
CASES = {name: Case(MOVED[name], functions) for name, functions in FUNCTIONS.items()}


def evaluate(case: Case, v: Values, y: Tensor) -> dict[str, np.ndarray]:
    """Every element of every latent, the case's own functions, and the two densities, each `(chains,)`."""
    found = {f"{name}[{i}]": x for name, value in v.items() for i, x in enumerate(value.flatten(1).unbind(1))}
    found |= case.functions(v, y)
    found["log likelihood"] = case.model.log_likelihood(v, PUPILS.replace(y=y)).sum(1)
    found["log prior"] = case.model.log_prior(v, PUPILS)
    return {name: x.numpy() for name, x in found.items() if x.std() > 0}  # not the constants in a Cholesky factor


def joint(model: ht.Model, chains: int, generator: torch.Generator) -> tuple[Values, Tensor]:
    """(theta, y) ~ p(theta) p(y | theta), one pair a chain."""
    v = model.sample_prior(PUPILS, chains, generator)
    return v, model.simulate(v, PUPILS, generator)


def exact(case: Case, chains: int, generator: torch.Generator) -> dict[str, np.ndarray]:
    """The functions at many joint draws, sorted."""
    parts = [evaluate(case, *joint(case.model, chains, generator)) for _ in range(EXACT)]
    return {name: np.sort(np.concatenate([part[name] for part in parts])) for name in parts[0]}


@lru_cache(maxsize=2)
def prepared(name: str, chains: int) -> tuple[Values, Tensor, dict[str, np.ndarray]]:
    """The joint draws from which chains start, and the functions at many others."""
    case, generator = CASES[name], torch.Generator().manual_seed(13)
    return *joint(case.model, chains, generator), exact(case, chains, generator)


Tuned = Callable[..., list[Tuning]]
Advance = Callable[..., State]


@pytest.fixture(scope="module")
def tuned(watched: Callable[..., Any]) -> Tuned:
    """What warm-up learns from other data of the same model."""

    @lru_cache
    def learn(name: str, moves: Moves = None) -> list[Tuning]:
        _, y = joint(CASES[name].model, 100, torch.Generator().manual_seed(11))
        options = {"chains": 100, "warmup": 150, "draws": 4, "thin": 1, "seed": 12, "plan": moves}
        return watched(CASES[name].model, PUPILS.replace(y=y), **options).tuning

    return learn


def parts_of(plan: Plan, tuning: list[Tuning]) -> dict[str, tuple[Plan, list[Tuning]]]:
    """The whole sweep, and each move by itself."""
    alone = {step.move.name: (replace(plan, steps=(step,)), [tuning[k]]) for k, step in enumerate(plan.steps)}
    return {"the whole sweep": (plan, tuning), **alone}


def failures(kernels_: int, found: dict[str, np.ndarray], known: dict[str, np.ndarray]) -> dict[str, float]:
    """The tests that one of several kernels fails, at ALPHA for all kernels together."""
    p = p_values(found, known)
    return {what: value for what, value in p.items() if not value > ALPHA / len(p) / kernels_}


def failing(
    name: str,
    tuning: list[Tuning],
    advance: Advance,
    chains: int = CHAINS,
    sweeps: int = SWEEPS,
    only: Collection[str] = (),
    moves: Moves = None,
) -> dict[str, dict[str, float]]:
    """Kernel -> the tests that it fails, for all kernels or only some. See Note [Exact invariance]."""
    case = CASES[name]
    v, y, known = prepared(name, chains)
    plan = plan_for(case.model, y, moves)
    target, found, parts = plan.target, {}, parts_of(plan, tuning)
    state = target.state(target.space.unconstrain(v))
    Sweep(plan, chains).rehearse(state, tuning, compiled=False)  # from here on the recorded pieces, as in a run
    for kernel in only or parts:
        part, frozen = parts[kernel]
        after = advance(Sweep(part, chains), state, frozen, sweeps, torch.Generator().manual_seed(14))
        found[kernel] = failures(len(parts), evaluate(case, Values(after.values), y), known)
    return {kernel: failed for kernel, failed in found.items() if failed}


def alternating(name: str, tuning: list[Tuning], advance: Advance, rounds: int) -> dict[str, float]:
    """The tests that fail after rounds of a new y given theta and a few sweeps given y (Geweke 2004): errors add up."""
    case, generator = CASES[name], torch.Generator().manual_seed(15)
    v, _, known = prepared(name, CHAINS)
    for _ in range(rounds):
        y = case.model.simulate(v, PUPILS, generator)
        plan = plan_for(case.model, y)
        target = plan.target
        state = target.state(target.space.unconstrain(v))
        v = Values(advance(Sweep(plan, CHAINS), state, tuning, 3, generator).values)
    return failures(1, evaluate(case, v, y), known)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["varying intercepts", "overridden log_prob", "bernoulli", "neighbours"])
def test_joint_distribution(name: str, tuned: Tuned, advance: Advance) -> None:
    """Error rate 1e-3 a case."""
    assert not failing(name, tuned(name), advance)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_joint_distribution_with_many_chains(name: str, tuned: Tuned, advance: Advance) -> None:
    """Error rate 1e-3 a case."""
    assert not failing(name, tuned(name), advance, MANY_CHAINS, MANY_SWEEPS)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["varying intercepts", "nested", "bernoulli", "correlated effects"])
def test_alternating_with_new_data(name: str, tuned: Tuned, advance: Advance) -> None:
    """Error rate 1e-3 a case."""
    assert not alternating(name, tuned(name), advance, 30)


PLANS: dict[str, list[Moves]] = {
    "scales by group": [
        (("groupwise", ("s",)), ("groupwise", ("a",)), ("joint", ("mu", "tau", "m"))),
        (("joint", ("mu", "tau", "m", "s", "a")), ("non-centred", ("m",)), ("non-centred", ("mu", "tau"))),
    ],
    "nested": [
        (("joint", ("mu", "s_y")), ("joint", ("s_a", "a")), ("centred", ("s_b",)), ("groupwise", ("b",))),
        (("non-centred", ("mu", "s_a", "s_b")), ("groupwise", ("a",)), ("joint", ("mu", "s_a", "s_b", "s_y", "b"))),
    ],
}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "moves"), [(name, moves) for name, plans in PLANS.items() for moves in plans])
def test_moves_that_a_user_names(name: str, moves: Moves, tuned: Tuned, advance: Advance) -> None:
    """Error rate 1e-3 a plan."""
    assert not failing(name, tuned(name, moves), advance, sweeps=MANY_SWEEPS, moves=moves)


def no_transport(sabotage: Any) -> None:
    """The non-centred move leaves the effects where they are, but still counts on their keeping their place."""
    sabotage.patch.setattr(Target, "transport", lambda target, name, old, new: old[name])


def wrong_parents(sabotage: Any) -> None:
    """Rooms are counted for another school than their own."""
    right = groupwise.Groupwise.on

    def on(move: Any, structure: Any) -> Any:
        new = right(move, structure)
        new.inside = {name: codes.roll(1) for name, codes in new.inside.items()}
        return new

    sabotage.patch.setattr(groupwise.Groupwise, "on", on)


def no_correction(sabotage: Any) -> None:
    """Guesses are accepted as if they were walks, without log q(u) - log q(u')."""
    right = metropolis.propose

    def propose(*args: Any, **more: Any) -> Any:
        parts, log_q, other = right(*args, **more)
        return parts, 0.0 * log_q, other

    sabotage.patch.setattr(base, "propose", propose)


GROUPWISE, CENTRED, JOINT, NON_CENTRED = (
    "groupwise(alpha)",
    "centred(mu_alpha, sigma_alpha)",
    "joint(beta, sigma_y)",
    "non-centred(mu_alpha, sigma_alpha, beta, sigma_y)",
)
BROKEN: dict[str, tuple[str, Callable[[Any], None], set[str]]] = {  # case, what is broken, who must fail
    "square root rule": (
        "varying intercepts",
        lambda s: s.rule("square root"),
        {GROUPWISE, CENTRED, JOINT, NON_CENTRED},
    ),
    "no Jacobian": ("varying intercepts", lambda s: s.jacobian(), {CENTRED, NON_CENTRED}),
    "stale prior, groupwise": ("varying intercepts", lambda s: s.cache("prior", groupwise.Groupwise), {GROUPWISE}),
    "stale prior, centred": ("varying intercepts", lambda s: s.cache("prior", joint_move.Joint), {CENTRED}),
    "no correction": ("varying intercepts", no_correction, {GROUPWISE, CENTRED}),
    "no transport": ("varying intercepts", no_transport, {NON_CENTRED}),
    "wrong parents": ("nested", wrong_parents, {"groupwise(a)"}),
}


@pytest.mark.slow
@pytest.mark.parametrize("how", BROKEN)
def test_broken_kernels_are_noticed(how: str, tuned: Tuned, advance: Advance, sabotage: Any) -> None:
    """Tuned as they should be, then broken. Stale sums over rows hardly show here; see `test_known_answers`."""
    name, break_it, expected = BROKEN[how]
    tuning = tuned(name)
    break_it(sabotage)
    assert failing(name, tuning, advance, only=expected).keys() == expected


def test_groupwise_moves_of_groups_that_rows_mix_are_noticed(tuned: Tuned, advance: Advance, sabotage: Any) -> None:
    """With `test_joint_distribution` of the joint move to show that it is the groupwise one that is noticed."""
    sabotage.independence()
    moves = (("groupwise", ("alpha",)), ("joint", ("s_y",)))
    assert "groupwise(alpha)" in failing("neighbours", tuned("neighbours", moves), advance, moves=moves)


@pytest.mark.slow
def test_a_slightly_lenient_rule_is_noticed(tuned: Tuned, advance: Advance, sabotage: Any) -> None:
    """Proposals are accepted with min(1, 1.22 ratio), and few of the moves' acceptance rates would tell."""
    tuning = tuned("varying intercepts")
    sabotage.rule("lenient")
    assert failing("varying intercepts", tuning, advance, MANY_CHAINS, MANY_SWEEPS)
    assert alternating("varying intercepts", tuning, advance, 30)

"""Whitened runs leave the posterior as it is, whatever the sites.

From exact starts, at an error rate of 1e-3 a case; see Note [Exact starts] in `exactstarts`.
"""

import pytest
from exactstarts import CASES, adjusted, failures, far_too_much, population_alone

from hiertorch.run import compiled, whitened
from hiertorch.run.rounds import Round
from hiertorch.run.whitened import Whitened

pytestmark = pytest.mark.usefixtures("as_in_sampling")


@pytest.mark.parametrize("name", [
    pytest.param(name, marks=() if name == "intercepts" else pytest.mark.slow) for name in CASES
])  # fmt: skip
def test_the_posterior_stays(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every fourth sweep walks, as every 50th does else. Error rate 1e-3 a case."""
    monkeypatch.setattr("hiertorch.run.rounds.CYCLE", 4)
    assert not failures(name)


CLOSED = ("intercepts", "all 0", "a group without rows", "slopes", "negative binomial", "heavy tails", "trials",
          "nested", "crossed trials", "tutors")  # fmt: skip
"""Cases whose sweeps are compiled."""


@pytest.mark.slow
@pytest.mark.parametrize("name", CLOSED)
def test_the_posterior_stays_in_compiled_sweeps(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every fourth sweep walks; the last block of chains is not full; nothing is adjusted to theta. Error rate 1e-3 a
    case.
    """
    monkeypatch.setattr("hiertorch.run.rounds.CYCLE", 4)
    monkeypatch.setattr("hiertorch.run.adjusted.POOR", 0.0)
    assert not failures(name, is_compiled, monkeypatch, made=compiled.WhitenedCompiled)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["all 0", "slopes", "nested"])
def test_the_posterior_stays_in_compiled_sweeps_of_adjusted_numbers(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By far too much. Error rate 1e-3 a case."""
    far_too_much(monkeypatch)
    assert not failures(name, adjusted, monkeypatch, made=compiled.WhitenedCompiled)


def is_compiled(engine: Whitened, patch: pytest.MonkeyPatch) -> None:
    """Nothing is broken."""
    assert isinstance(engine, compiled.WhitenedCompiled) and engine.compiled


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in CASES if name not in ("slopes", "nested", "heavy tails", "curve")])
def test_the_posterior_stays_where_warm_up_ends_by_itself(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long anybody stays: of so many chains one always does. The others are adjusted to theta by every
    round, and never settle. Error rate 1e-3 a case."""
    rule = Round.settled
    monkeypatch.setattr(Round, "settled", lambda now, before, _: rule(now, before, 0))
    assert not failures(name, settles=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_the_posterior_stays_by_the_users_own_density(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the closed form of the rows. Error rate 1e-3 a case."""
    monkeypatch.setattr(whitened, "closed_weights", lambda *_: None)
    assert not failures(name)


@pytest.mark.parametrize("name", [
    pytest.param(name, marks=() if name == "all 0" else pytest.mark.slow) for name in ("all 0", "slopes", "nested")
])  # fmt: skip
def test_the_posterior_stays_while_numbers_of_groups_are_adjusted(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """To theta, by far too much, and drawn with heavier tails, however well chains move. Error rate 1e-3 a case."""
    far_too_much(monkeypatch)
    assert not failures(name, adjusted, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["intercepts", "slopes", "nested"])
def test_the_posterior_stays_while_the_population_alone_moves(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Error rate 1e-3 a case."""
    assert not failures(name, population_alone, monkeypatch)

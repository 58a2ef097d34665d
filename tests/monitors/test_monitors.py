"""Monitors: what they write is what they were told, they change nothing, and they survive what goes wrong."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from contracts.monitors import MonitorContract
from windows import RUN, make_windows

from hiertorch.monitors import Monitor, ProgressBar, parameter_names
from hiertorch.monitors.base import safe_tags, watch
from hiertorch.monitors.governor import Governor, Tier

# Names and selections


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("mu", (1,), ["mu"]),
        ("beta", (1, 2), ["beta[SES]", "beta[sector]"]),
        ("Omega", (1, 2, 2), ["Omega[0, 0]", "Omega[0, 1]", "Omega[1, 0]", "Omega[1, 1]"]),
        ("alpha", (3,), ["alpha[Åsa Skola]", "alpha[St. Mary's / 7]", "alpha[ North ]"]),
        ("alpha", (2,), ["alpha[0]", "alpha[1]"]),  # not as many labels as groups
        ("beta", (1, 3), ["beta[0]", "beta[1]", "beta[2]"]),
        ("gamma", (1, 2), ["gamma[0]", "gamma[1]"]),  # unknown
    ],
)
def test_parameter_names(name, shape, expected):
    assert parameter_names(RUN, name, shape) == expected


def test_parameter_names_of_groups_and_events_follow_c_order():
    rooms = pd.MultiIndex.from_tuples([("A", 1), ("B", 1)], names=["school", "room"])
    run = replace(RUN, plates={"b": "room"}, labels={"room": rooms}, event_labels={"b": (("x", "z"),)})
    assert parameter_names(run, "b", (2, 2)) == ["b[A:1, x]", "b[A:1, z]", "b[B:1, x]", "b[B:1, z]"]


def test_safe_tags_have_no_slash_or_outer_space_and_differ():
    assert safe_tags(["a[x/y]", "a[x|y]", " b\n c ", "b c", "b c", "d"]) == [
        "a[x|y]", "a[x|y] (2)", "b c", "b c (2)", "b c (3)", "d",
    ]  # fmt: skip


def test_watch_takes_population_scalars_then_vectors_then_evenly_spaced_groups():
    values = {"a": torch.zeros(2, 100), "c": torch.zeros(2, 7, 3), "v": torch.zeros(2, 1, 2), "s": torch.zeros(2, 1)}
    plates = {"a": "g", "c": "h", "v": None, "s": None}
    run = replace(RUN, names=("a", "c", "v", "s"), plates=plates, labels={}, event_labels={})
    chosen = watch(run, values, 9)
    assert chosen.names == ("s", "v[0]", "v[1]", "a[0]", "a[50]", "a[99]", "c[0, 0]", "c[3, 1]", "c[6, 2]")
    assert (chosen.population, chosen.of) == (3, 124)
    assert chosen.text == "9 of 124 parameters: 3 population-level ones and 6 of the groups', evenly spaced"
    assert watch(run, values, 2).names == ("s", "v[0]")
    assert watch(run, values, 500).text == "all 124 parameters"


def test_watch_takes_the_half_of_a_matrix_that_varies():
    torch.manual_seed(3)
    square = torch.randn(5, 1, 3, 3)
    correlation = torch.stack([torch.corrcoef(torch.randn(3, 9)) for _ in range(5)])[:, None]
    correlation = (correlation + correlation.mT) / 2
    correlation.diagonal(dim1=-2, dim2=-1).fill_(1)
    cholesky = torch.linalg.cholesky(correlation)
    run = replace(RUN, names=("m",), plates={"m": None}, event_labels={})
    lower = ("m[1, 0]", "m[2, 0]", "m[2, 1]")
    assert len(watch(run, {"m": square}, 99).names) == 9
    assert watch(run, {"m": square @ square.mT}, 99).names == (
        "m[0, 0]", "m[1, 0]", "m[1, 1]", "m[2, 0]", "m[2, 1]", "m[2, 2]",
    )  # fmt: skip
    assert watch(run, {"m": correlation}, 99).names == lower
    assert set(watch(run, {"m": cholesky}, 99).names) == {*lower, "m[1, 1]", "m[2, 2]"}


def test_watch_reads_values_and_thinned_draws():
    window = make_windows()[-1]
    chosen = watch(RUN, window.values, 99)
    assert chosen.names == (
        "mu", "beta[SES]", "beta[sector]", "Omega[1, 0]", "alpha[Åsa Skola]", "alpha[St. Mary's / 7]", "alpha[ North ]",
    )  # fmt: skip
    parts = [window.values[k].numpy() for k in ("mu", "beta", "Omega", "alpha")]
    expected = np.concatenate([parts[0], parts[1][:, 0], parts[2][:, 0, 1, :1], parts[3]], 1)
    np.testing.assert_array_equal(chosen.last(window.values).numpy(), expected)
    thinned = chosen.draws(window.draws, at_most=50)  # 120 draws: every third, and the last
    assert thinned.shape == (4, 40, 7)
    np.testing.assert_array_equal(thinned[:, :, 4:].numpy(), window.draws["alpha"][:, 2::3].numpy())
    np.testing.assert_array_equal(chosen.draws(window.draws, 120)[:, :, 0].numpy(), window.draws["mu"][..., 0].numpy())


def test_the_governor_waits_for_its_share():
    wall, work = [0.0], [0.0]
    governor = Governor(0.1, lambda: wall[0], lambda: work[0])
    tier = Tier(governor, every=5.0, cost=0.6, most=4)
    wall[0] = 4.0
    assert not tier.may(50, 100)  # too early
    wall[0] = 5.0
    assert not tier.may(50, 100)  # 0.6 s of 5 s, when 0.5 s are allowed
    wall[0] = 6.0
    assert tier.may(25, 100) and not tier.may(24, 100)  # four times in the run
    with tier.turn(25):
        work[0] += 0.2
        wall[0] += 1.0
    wall[0] = 11.9
    assert not tier.may(90, 100)  # 5 s from its end
    wall[0] = 12.0
    assert tier.may(90, 100) and not tier.may(49, 100)  # it took 0.2 s, as much again is expected
    with pytest.raises(KeyError), governor.spending():
        work[0] += 0.9
        raise KeyError
    assert governor.total == pytest.approx(1.1) and not tier.may(90, 100)


# Every monitor


class TestNothing(MonitorContract):
    def monitor(self, folder: Path) -> Monitor:
        return Monitor()


class TestProgressBar(MonitorContract):
    def monitor(self, folder: Path) -> Monitor:
        return ProgressBar(io.StringIO())

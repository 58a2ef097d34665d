"""`hiertorch tutorial` and scripts/tutorial.py: numbers against other computations, and tables as printed."""

import contextlib
import functools
import io
import re
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from references import varying_intercepts

import hiertorch as ht
from hiertorch.commands import tutorial
from hiertorch.models import VaryingIntercepts

ROOT = Path(__file__).parents[2]
pytestmark = [
    pytest.mark.filterwarnings("ignore::hiertorch.errors.SamplingWarning"),
    pytest.mark.filterwarnings("ignore:The inplace keyword:DeprecationWarning"),  # of pandas, met by arviz_stats
]


@pytest.fixture(scope="module")
def printed():
    """What the demonstrations print: title -> lines."""
    before, out = warnings.formatwarning, io.StringIO()
    with contextlib.redirect_stdout(out):
        assert tutorial.main(["all"]) == 0
    warnings.formatwarning = before
    sections = {}
    for part in re.split(r"\n(?=[^\n]+\n=+\n)", out.getvalue()):
        if lines := part.strip("\n").splitlines():
            assert lines[1] == "=" * len(lines[0])
            sections[lines[0].split(":")[0].split(" at ")[0]] = lines[2:]
    return sections


@functools.cache
def posterior_by_quadrature(name):
    """Mean and sd of every parameter, by the name that a summary gives it."""
    made = simulated(name)
    frame, data = made.frame, made.data
    found = varying_intercepts(frame["y"].to_numpy(), frame["x"].to_numpy(), data["school"].numpy())
    names = {"beta[x]": ("beta", 0), "mu_alpha": ("mu_alpha", 0), "sigma_alpha": ("sigma_alpha", 0)}
    names |= {"sigma_y": ("sigma_y", 0)}
    names |= {f"alpha[{school}]": ("alpha", k) for k, school in enumerate(data.labels["school"])}
    return {name: (found[latent].mean[k], found[latent].sd[k]) for name, (latent, k) in names.items()}


SETTINGS = {
    "Varying intercepts": ([-1.2, -0.5, 0.2, 0.8, 1.1, 1.5], 15, 0.6, 0.8, 123),
    "Diagnostics": ([-1.0, 0.0, 0.5, 1.2], 8, 0.7, 0.5, 555),
}


def simulated(name):
    effects, rows, slope, noise, seed = SETTINGS[name]
    groups = {"school": len(effects)}
    return ht.simulate_grouped(groups, rows, effects=effects, slope=slope, noise=noise, seed=seed)


def test_all_are_printed_in_lines_that_fit(printed):
    assert list(printed) == ["Varying intercepts", "Model comparison", "Diagnostics", "Prediction"]
    assert max(len(line) for lines in printed.values() for line in lines) <= 120


@pytest.mark.parametrize("name", SETTINGS)
def test_estimates_are_those_of_quadrature(name, printed):
    """Means within 0.15 sd and sds within 15%, and rounding: far beyond Monte Carlo errors of 1,600 draws or more."""
    effects, _, slope, noise, _ = SETTINGS[name]
    expected, seen = posterior_by_quadrature(name), []
    lines = printed[name]
    for line in lines[1 : lines.index("")]:
        title, parameter, truth, *cells = re.split(r"\s{2,}", line.strip())
        if name == "Varying intercepts" and parameter.startswith("alpha"):
            cells.pop(0)  # without pooling
        mean, sd = map(float, cells[:2])
        assert mean == pytest.approx(expected[parameter][0], abs=0.15 * expected[parameter][1] + 0.005)
        assert sd == pytest.approx(expected[parameter][1], rel=0.15, abs=0.005)
        if parameter.startswith("alpha"):
            school = re.fullmatch(r"alpha\[(s(\d))\]", parameter)
            assert title == f"school {school.group(1)}" and float(truth) == effects[int(school.group(2)) - 1]
        if parameter in ("beta[x]", "sigma_y"):
            assert float(truth) == {"beta[x]": slope, "sigma_y": noise}[parameter]
            low, high = map(float, cells[2].split(" to "))
            assert low < float(truth) < high and cells[3] == "yes"
        seen.append(parameter)
    assert sorted(seen) == sorted(expected)


def test_schools_shrink_from_their_own_estimate_to_the_grand_mean(printed):
    lines = printed["Varying intercepts"]
    centre = float(re.search(r"mu_alpha +\S+ +(\S+)", "\n".join(lines)).group(1))
    for line in lines:
        if re.match(r"school s\d", line):
            own, mean = map(float, re.findall(r"-?\d+\.\d+", line)[1:3])
            assert abs(mean - centre) < abs(own - centre) + 0.03  # Monte Carlo errors of two runs


def test_diagnostics_say_that_chains_agree(printed):
    reading = " ".join(printed["Diagnostics"])
    assert "Chains agree" in reading
    variance = float(re.search(r"with variance ([\d.]+);", reading).group(1))
    exact = posterior_by_quadrature("Diagnostics")["beta[x]"][1] ** 2
    assert variance == pytest.approx(exact, rel=0.2)


def test_a_new_school_has_a_wider_interval(printed):
    """The mean of a new school's rows at x = 2 is that of alpha ~ Normal(mu_alpha, sigma_alpha) + 2 beta, whose moments
    follow from a long run; that of a fitted school has its own effect and covers the truth.
    """
    lines = printed["Prediction"]
    rows = {line.split()[1]: line for line in lines if line.startswith("school ")}
    assert list(rows) == ["s1", "s2", "s3", "new"]
    numbers = {name: [float(x) for x in re.findall(r"-?\d+\.\d+", line)] for name, line in rows.items()}
    for school in ("s1", "s2", "s3"):
        truth, _, _, low, high, _, _, lower, upper = numbers[school]
        assert low <= truth <= high  # as printed, rounded
        assert lower < low < high < upper
    mean, sd, low, high, *one = numbers["new"]
    assert high - low > 3 * (numbers["s1"][4] - numbers["s1"][3])

    made = ht.simulate_grouped({"school": 3}, 10, effects=[-0.5, 0.2, 0.8], slope=0.5, noise=0.4, seed=999)
    long = ht.sample(
        VaryingIntercepts("school", ["x"], priors="tutorial"), made.data, chains=32, draws=500, seed=1, progress=False
    )
    generator = torch.Generator().manual_seed(2)
    normal = torch.randn(long["mu_alpha"].shape, generator=generator, dtype=torch.float64)
    new = long["mu_alpha"] + long["sigma_alpha"] * normal + 2 * long["beta"][..., 0]
    ends = np.quantile(new.numpy(), [0.055, 0.945])
    assert [low, high] == pytest.approx(ends, abs=0.25)
    assert mean == pytest.approx(float(new.mean()), abs=0.15)
    assert one[0] == pytest.approx(mean, abs=0.15) and one[1] > sd * 0.95
    point = float(re.search(r"is (-?[\d.]+), which hides", " ".join(lines)).group(1))
    assert point == pytest.approx(float((long["mu_alpha"] + 2 * long["beta"][..., 0]).mean()), abs=0.08)


def test_model_comparison_names_models_and_what_was_left_out(printed):
    lines = printed["Model comparison"]
    body = "\n".join(lines)
    assert [len(re.findall(f"{name} ", body)) for name in ("complete pooling", "varying intercepts")] == [2, 2]
    assert "one row left out" in body and "one school left out" in body
    assert "can't tell whether it predicts new groups of 'school' better" in " ".join(lines)
    best = [line for line in lines if line.startswith("one ")]
    assert all("varying intercepts" in line for line in best)  # the truth has schools that differ


@pytest.mark.slow
def test_from_a_terminal():
    command = [sys.executable, str(ROOT / "scripts" / "tutorial.py"), "diagnostics"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("\nDiagnostics: 4 schools of 8 rows\n=====")


def test_a_name_that_there_is_not(capsys):
    assert tutorial.main(["nothing"]) == 2
    assert capsys.readouterr().err.startswith("error: NAME: expected one of varying-intercepts, ")

"""A running TensorBoard, with either of its readers, while a real fit goes on, and where one run follows another.

Both readers look at the same files at the same time, and are asked what a page asks. Note [Two writers, one folder] in
hiertorch/dashboard/earlier.py says why they differ.
"""

import functools
import os
import signal
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import numpy as np
import pytest
from builders import ten_schools
from server import Fit, serve, until

import hiertorch as ht
from hiertorch.dashboard import board
from hiertorch.errors import SamplingWarning
from hiertorch.models import VaryingIntercepts
from hiertorch.monitors import Monitor

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::hiertorch.errors.SamplingWarning")]

CHAINS = {f"run/chain_{c}" for c in range(4)}
PARTS = ("run", "run/chain_0")
ENDLESS = """
import hiertorch as ht
from builders import ten_schools
from hiertorch.models import VaryingIntercepts
model = VaryingIntercepts("school", ["x"], family="bernoulli")
settings = {"chains": 4, "warmup": 100, "draws": 1_000_000, "thin": 1, "seed": 2, "collapse": False, "compile": False}
keep = ["mu_alpha", "sigma_alpha", "beta"]
ht.sample(model, ten_schools("yes"), keep=keep, progress=False, log_dir="run", **settings)
"""


@contextmanager
def readers(folder):
    """A server with the fast reader, and one with the other."""
    with ExitStack() as stack, ThreadPoolExecutor() as pool:  # they take their time to start
        yield list(pool.map(stack.enter_context, [serve(folder, fast) for fast in (True, False)]))


def fit(folder, **options):
    """A short run, whose dashboard must be without fault."""
    settings = {"chains": 4, "warmup": 100, "draws": 200, "thin": 1, "seed": 3, "collapse": False, "compile": False}
    with warnings.catch_warnings():
        warnings.filterwarnings("error", category=SamplingWarning, message="TensorBoard")
        return ht.sample(
            VaryingIntercepts("school", ["x"], priors="tutorial"),
            ten_schools(),
            log_dir=folder,
            progress=False,
            **{**settings, **options},
        )


@pytest.fixture
def quick(monkeypatch):
    """Looks and pages twenty times as often."""
    tier = board.Tier
    monkeypatch.setattr(board, "Tier", lambda governor, every, **more: tier(governor, every / 20, **more))


def test_a_fit_is_seen_while_it_goes_on(tmp_path, quick):
    with readers(tmp_path) as servers:
        fitting = Fit(tmp_path / "run")

        def soon(look):
            """Of both, and before the run is over."""
            for server in servers:
                until(functools.partial(look, server))
            assert fitting.running

        def grows(look):
            before = [len(until(functools.partial(look, server))) for server in servers]
            for server, number in zip(servers, before, strict=True):
                until(lambda server=server, number=number: len(look(server)) > number)
            assert fitting.running

        soon(lambda server: {"run", *CHAINS} <= server.runs())
        soon(lambda server: any("Running" in t for _, t in server.texts("2_summary/verdict")))
        grows(lambda server: server.points("trace/mu_alpha", "run/chain_3"))
        grows(lambda server: server.points("convergence/rhat_max"))
        grows(lambda server: server.points("posterior/beta[x]/mean"))
        grows(lambda server: server.steps("histograms", "posterior/beta[x]"))
        fitting.end()
        sweeps = fitting.posterior.run["sweeps"]
        for server in servers:
            until(lambda server=server: server.sessions().get("run", [None] * 3)[2] == "STATUS_SUCCESS")
            until(lambda server=server: "Finished" in server.texts("2_summary/verdict")[-1][1])
            until(lambda server=server: server.points("metric/elpd_loo"))
            looks_right(server, fitting.posterior, sweeps)


def looks_right(server, posterior, sweeps):
    """What a finished run's page gets."""
    for tag in ("convergence/rhat_max", "posterior/beta[x]/mean", "pooling/alpha", "metric/ess_min"):
        until(lambda tag=tag: server.points(tag)[-1][0] == sweeps)
    trace = server.points("trace/mu_alpha", "run/chain_3")
    assert trace[-1] == (sweeps, pytest.approx(posterior["mu_alpha"][3, -1].item(), rel=1e-6))
    assert server.points("posterior/mu_alpha/mean")[-1][1] == pytest.approx(posterior["mu_alpha"].mean().item(), 1e-4)
    for plugin in ("histograms", "distributions"):
        steps = server.steps(plugin, "posterior/mu_alpha")
        assert 2 <= len(steps) <= 50 and steps[-1] == sweeps and (np.diff(steps) > 0).all()
    for figure in ("rank", "forest", "shrinkage", "pair", "funnel", "acceptance", "predictive", "pareto_k"):
        image = server.get("plugin/images/images", run="run", tag=f"figures/{figure}", sample=0)[-1]
        assert image["step"] == sweeps
    assert "<table" in server.texts("2_summary/posterior")[-1][1]
    assert "VaryingIntercepts" in server.texts("1_run/model_card")[-1][1]
    layout = {c["title"]: c["chart"] for c in server.get("plugin/custom_scalars/layout")["category"]}
    assert [title[0] for title in layout] == list("123467")
    for charts in layout.values():
        for chart in charts:
            patterns = chart["multiline"]["tag"] if "multiline" in chart else [chart["margin"]["series"][0]["value"]]
            if "margin" in chart:
                patterns = [pattern.replace("[", r"\[").replace("]", r"\]") for pattern in patterns]
            for pattern in patterns:
                every = [server.get("plugin/custom_scalars/scalars", run=run, tag=pattern) for run in ("run", *CHAINS)]
                assert all(found["regex_valid"] for found in every)
                assert any(found["tag_to_events"] for found in every), pattern
    settings, metrics, _ = server.sessions()["run"]
    assert settings["model"] == "VaryingIntercepts" and settings["kernel"] == "whitened" and settings["seed"] == "1"
    assert set(metrics) == {f"metric/{tag}" for tag in ("elpd_loo", "rhat_max", "ess_min", "ess_per_s")}
    assert metrics["metric/elpd_loo"] == server.points("metric/elpd_loo")[-1][1]


def end_of(server, tag, run="run"):
    return max((step for step, value in server.points(tag, run) if value != "NaN"), default=0)


def whole(server, step):
    """Whether a server has read all of a run that ended at a step."""
    return end_of(server, "convergence/rhat_max") == step == end_of(server, "trace/sigma_y", "run/chain_0")


def increase(curves):
    for key, points in curves.items():
        assert (np.diff([step for step, _ in points]) > 0).all(), key


def test_a_run_takes_the_place_of_one_that_was_killed(tmp_path):
    paths = os.pathsep.join([os.path.dirname(__file__), os.path.dirname(os.path.dirname(__file__))])
    with readers(tmp_path) as servers:
        program = subprocess.Popen(
            [sys.executable, "-c", ENDLESS], cwd=tmp_path, env=os.environ | {"PYTHONPATH": paths}
        )
        try:
            for server in servers:
                until(
                    lambda server=server: end_of(server, "trace/mu_alpha", "run/chain_0") > 400,
                    why=lambda server=server: (program.poll(), server.points("sampler/phase")),
                )
        finally:
            program.send_signal(signal.SIGKILL)
            program.wait()
        assert all(
            server.points("sampler/block/non-centred mu_alpha sigma_alpha beta/accept_rate") for server in servers
        )
        last = fit(tmp_path / "run").run["sweeps"]
        assert last == 300
        for server in servers:
            until(lambda server=server: whole(server, last), why=lambda server=server: server.points("sampler/phase"))
        with readers(tmp_path) as fresh:
            for live, new in zip(servers, fresh, strict=True):
                until(lambda new=new: whole(new, last))
                until(lambda live=live, new=new: live.curves(*PARTS) == new.curves(*PARTS))
                for server in (live, new):
                    curves = server.curves(*PARTS)
                    increase(curves)
                    assert all(points[-1][0] <= last for points in curves.values())
                    trace = [step for step, _ in curves["run/chain_0", "trace/beta[x]"]]
                    assert len(trace) >= 200 and trace[-200:] == list(range(101, 301))
                    assert max(server.steps("text", "2_summary/verdict")) == last
                    assert "Finished" in server.texts("2_summary/verdict")[-1][1]


class Stop(Monitor):
    def window(self, window):
        if window.sweep >= 250:
            raise KeyboardInterrupt


def test_an_interrupted_run_goes_on_in_both_readers(tmp_path):
    with readers(tmp_path) as servers:
        first = fit(tmp_path / "run", monitors=[Stop()])
        assert first.interrupted
        shown = first.run["sweeps"] - 50  # Ctrl-C came before the dashboard was told of the last window
        for server in servers:
            until(lambda server=server: whole(server, shown), why=lambda server=server: server.points("sampler/phase"))
        before = [server.curves(*PARTS) for server in servers]
        second = fit(tmp_path / "run", start=first)
        last = second.run["sweeps"]
        assert last == first.run["sweeps"] + 300
        for server in servers:
            until(lambda server=server: whole(server, last), why=lambda server=server: server.points("sampler/phase"))
        with readers(tmp_path) as fresh:
            for live, new, old in zip(servers, fresh, before, strict=True):
                until(lambda new=new: whole(new, last))
                until(lambda live=live, new=new: live.curves(*PARTS) == new.curves(*PARTS))
                for server in (live, new):
                    curves = server.curves(*PARTS)
                    increase(curves)
                    for key, points in old.items():
                        assert curves[key][: len(points)] == points, key
                    trace = curves["run/chain_0", "trace/sigma_y"]
                    values = second["sigma_y"][0].tolist()
                    later = [(first.run["sweeps"] + 101 + k, pytest.approx(x, rel=1e-6)) for k, x in enumerate(values)]
                    assert trace[-200:] == later
                    assert server.sessions()["run"][2] == "STATUS_SUCCESS"

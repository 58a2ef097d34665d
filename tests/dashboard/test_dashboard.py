"""The dashboard: what is written is what monitors were told, and it survives what goes wrong."""

import io
import re
import threading
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from arviz_stats.base import array_stats
from contracts.monitors import MonitorContract
from tensorboard.plugins.custom_scalar import layout_pb2  # type: ignore[import-untyped]
from tensorboard.summary.writer.record_writer import RecordWriter  # type: ignore[import-untyped]
from windows import RUN, SAMPLING, SIZE, WARMUP, feed, load, make_windows, scalars, text, worst

from hiertorch.dashboard.looks import Eye
from hiertorch.dashboard.worker import MANY, Worker
from hiertorch.errors import RunFolderError, SamplingError, SamplingWarning
from hiertorch.monitors import TensorBoardMonitor
from hiertorch.monitors.base import places, watch


class Board(TensorBoardMonitor):
    """Silent."""

    def __init__(self, log_dir, **options):
        super().__init__(log_dir, announce=False, **options)


class TestTensorBoardMonitor(MonitorContract):
    def monitor(self, folder: Path) -> TensorBoardMonitor:
        return TensorBoardMonitor(folder, stream=io.StringIO())


@pytest.fixture
def idle(monkeypatch):
    """The dashboard's thread handles nothing before the end: the test does."""
    monkeypatch.setattr("hiertorch.dashboard.worker.Worker", partial(Worker, every=1e6))


def test_scalars_are_what_the_windows_held(tmp_path):
    windows = make_windows()
    feed(Board(tmp_path / "runs" / "fit"), windows)
    main = load(tmp_path / "runs" / "fit")
    assert sorted(p.name for p in (tmp_path / "runs" / "fit").iterdir() if p.is_dir()) == [
        f"chain_{c}" for c in range(4)
    ]
    tags = {
        "mu": ("mu", 0), "beta[SES]": ("beta", 0), "beta[sector]": ("beta", 1), "Omega[1, 0]": ("Omega", 2),
        "alpha[Åsa Skola]": ("alpha", 0), "alpha[St. Mary's | 7]": ("alpha", 1), "alpha[ North ]": ("alpha", 2),
    }  # fmt: skip

    def at(tag):
        return f"trace{'_groups' * tag.startswith('alpha')}/{tag}"

    sampler = {f"sampler/{tag}" for tag in ("log_prob", "accept_rate", "esjd", "stuck_max")}
    blocks = {f"sampler/block/{block}/accept_rate" for block in ("joint", "alpha")}
    first = [w for w in windows if w.phase == "warmup"]
    drawn = range(SIZE * WARMUP + 1, RUN.sweeps + 1)  # sweeps, each of which is stored
    for c in range(4):
        chain = load(tmp_path / "runs" / "fit" / f"chain_{c}")
        assert set(chain.Tags()["scalars"]) == {*sampler, *blocks, *(at(t) for t in tags)}
        for tag, (name, k) in tags.items():
            draws = windows[-1].draws[name][c].flatten(1)[:, k].tolist()
            expected = {w.sweep: w.values[name][c].flatten()[k].item() for w in first}
            assert scalars(chain, at(tag)) == expected | dict(zip(drawn, draws, strict=True))
        densities = dict(zip(drawn, windows[-1].log_densities[c].tolist(), strict=True))
        assert scalars(chain, "sampler/log_prob") == {w.sweep: w.log_density[c].item() for w in first} | densities
        rates = [(w.acceptance["joint"][c] + w.acceptance["alpha"][c].mean()).item() / 2 for w in windows]
        assert list(scalars(chain, "sampler/accept_rate").values()) == pytest.approx(rates)
    for block in ("joint", "alpha"):
        rates = [w.acceptance[block].numpy().mean() for w in windows]
        assert list(scalars(main, f"sampler/block/{block}/accept_rate").values()) == pytest.approx(rates)
    assert list(scalars(main, "sampler/phase").values()) == [0.0] * WARMUP + [1.0] * SAMPLING
    assert scalars(main, "sampler/nan_log_density") == {w.sweep: w.nan for w in windows}
    assert list(scalars(main, "perf/draws_per_s")) == [w.sweep for w in windows[1:]]
    assert min(scalars(main, "perf/draws_per_s").values()) > 0
    assert all(0 <= share < 1 for share in scalars(main, "perf/monitor_share").values())
    assert not [tag for tag in main.Tags()["scalars"] if tag.startswith("trace")]


def test_convergence_is_that_of_arviz_at_the_end_and_on_the_way(tmp_path):
    windows = make_windows(spread=0.3)
    feed(Board(tmp_path), windows)
    main = load(tmp_path)
    before = windows[WARMUP + 2 * SAMPLING // 3 - 1]
    for tag, of in {
        "rhat_max": lambda w: worst(array_stats.rhat, w).max(),
        "ess_bulk_min": lambda w: worst(array_stats.ess, w).min(),
        "ess_tail_min": lambda w: worst(
            lambda x, **kw: array_stats.ess(x, method="tail", prob=(0.05, 0.95), **kw), w
        ).min(),
    }.items():
        found = scalars(main, f"convergence/{tag}")
        assert len(found) == 3  # a short run is looked at in thirds, at its end
        assert found[RUN.sweeps] == pytest.approx(of(windows), rel=1e-5)
        assert found[before.sweep] == pytest.approx(of([before]), rel=1e-5)


def test_a_long_run_keeps_within_the_points_and_means_over_what_it_skips(tmp_path):
    windows = make_windows(chains=2, size=1, warmup=100, sampling=1500)
    feed(Board(tmp_path), windows, replace(RUN, sweeps=1600, warmup=100))
    main, chain = load(tmp_path), load(tmp_path / "chain_1")
    for run in (main, chain):
        for tag in run.Tags()["scalars"]:
            steps = list(scalars(run, tag))
            assert len(steps) <= 400
            assert steps[-1] == 1600
    steps = list(scalars(chain, "trace/mu"))
    assert steps[:3] == [1, 6, 11] and steps[-3:] == [1591, 1596, 1600]
    rates = scalars(main, "sampler/block/joint/accept_rate")
    assert rates[11] == pytest.approx(np.mean([w.acceptance["joint"].mean() for w in windows[6:11]]), rel=1e-6)


def test_many_chains_show_eight_and_quantiles_over_all(tmp_path):
    windows = make_windows(chains=12)
    feed(Board(tmp_path), windows)
    main = load(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_dir()) == [f"chain_{c}" for c in range(8)]
    first = torch.stack([w.values["beta"][:, 0, 1] for w in windows[:WARMUP]])  # (windows, chains)
    sector = torch.cat([first, windows[-1].draws["beta"][:, :, 0, 1].mT]).double().numpy()
    for name, q in {"q05": 0.05, "q50": 0.5, "q95": 0.95}.items():
        found = scalars(main, f"trace_quantiles/beta[sector]/{name}")
        assert list(found.values()) == pytest.approx(np.quantile(sector, q, axis=1), rel=1e-6)
    parameters = {tag.split("/")[1] for tag in main.Tags()["scalars"] if tag.startswith("trace_quantiles")}
    assert parameters == {"mu", "beta[SES]", "beta[sector]", "Omega[1, 0]"}
    assert "chains 0 to 7 of 12" in text(main, "1_run/contents")


def test_at_most_24_traces(tmp_path):
    windows = make_windows(chains=2, warmup=1, sampling=1)
    many = [replace(w, values={**w.values, "alpha": torch.randn(2, 500)}, draws={}) for w in windows]
    feed(Board(tmp_path), many, replace(RUN, labels={"school": pd.Index(range(500))}))
    traces = [tag for tag in load(tmp_path / "chain_0").Tags()["scalars"] if tag.startswith("trace")]
    assert len(traces) == 24
    groups = {"trace_groups/alpha[0]", "trace_groups/alpha[499]"}
    assert {"trace/mu", "trace/beta[SES]", "trace/Omega[1, 0]", *groups} <= set(traces)
    assert "24 of 504 parameters: 4 population-level ones and 20 of the groups'" in text(
        load(tmp_path), "1_run/contents"
    )


@pytest.mark.parametrize("chains", [4, 12])
def test_the_layout_finds_its_tags(tmp_path, chains):
    feed(Board(tmp_path), make_windows(chains=chains))
    runs = [load(tmp_path), *(load(tmp_path / f"chain_{c}") for c in range(min(chains, 8)))]
    config = runs[0].Tensors("custom_scalars__config__")[-1].tensor_proto.string_val[0]
    layout = layout_pb2.Layout.FromString(config)
    have = {tag for run in runs for tag in run.Tags()["scalars"]}
    titles = {category.title: category.closed for category in layout.category}
    six = "mu, beta[SES], beta[sector], Omega[1, 0], alpha[Åsa Skola], alpha[St. Mary's | 7]"
    four = "mu, beta[SES], beta[sector], Omega[1, 0]"
    assert titles == {
        "1 Health": False,
        f"2 Posterior mean with 5% to 95%: {six}": False,
        f"4 Traces by chain: {six}": True,
        **({f"5 Median and 5% to 95% of all chains: {four}": True} if chains > 8 else {}),
        "6 Moves": True,
        "7 Throughput": True,
    }
    assert sum(len(category.chart) for category in layout.category if not category.closed) <= 12
    for category in layout.category:
        for chart in category.chart:
            for pattern in chart.multiline.tag:
                matched = [tag for tag in have if re.match(pattern, tag)]
                assert matched and (len(matched) == 1 or "block" in pattern), pattern
            for band in chart.margin.series:
                assert {band.value, band.lower, band.upper} <= have
                kind, middle = ("posterior", "mean") if category.title[0] == "2" else ("trace_quantiles", "q50")
                kind += "_groups" * chart.title.startswith("alpha")
                assert band.value == f"{kind}/{chart.title}/{middle}"
                assert band.lower == f"{kind}/{chart.title}/q05" and band.upper == f"{kind}/{chart.title}/q95"


def test_texts_say_what_was_run(tmp_path):
    feed(Board(tmp_path), make_windows())
    main = load(tmp_path)
    config = text(main, "1_run/config")
    assert config.startswith("| setting | value |\n|---|---|\n| chains | 4 |\n| seed | 7 |")
    assert "| note | a\\|b |" in config
    assert '```yaml\nchains: 4\nseed: 7\ndevice: "cpu"\nnote: "a|b"\nversions: {"torch": "2"}\n```' in config
    card = text(main, "1_run/model_card")
    assert card.startswith("## VaryingIntercepts\n\n```\ny_ij ~ Normal(alpha_j + beta x_ij, sigma_y)\n```")
    assert "## Plan\n\n```\njoint: mu, beta\nalpha: groupwise\n```" in card
    assert "of all 4 chains; all 7 parameters" in text(main, "1_run/contents")


def test_the_model_card_shows_all_that_was_found_and_the_settings_do_not(tmp_path):
    found = ("warning: school: only 3 groups. Find more.", "note: y: 30 rows in all. Find more.")
    settings = {**RUN.settings, "findings": list(found)}
    feed(Board(tmp_path / "a"), [], replace(RUN, findings=found, settings=settings))
    card, config = (text(load(tmp_path / "a"), f"1_run/{tag}") for tag in ("model_card", "config"))
    assert "\n\n## Data\n\n```\n" + "\n".join(found) + "\n```\n\n## Plan" in card
    assert "only 3 groups" not in config and "| seed | 7 |" in config
    feed(Board(tmp_path / "b"), [])
    assert "## Data" not in text(load(tmp_path / "b"), "1_run/model_card")


def test_the_verdict_on_a_good_run(tmp_path):
    windows = make_windows(sampling=100)
    last = replace(windows[-1], nan=0)
    feed(Board(tmp_path), [*windows[:-1], last], replace(RUN, sweeps=last.sweep))
    lines = text(load(tmp_path), "2_summary/verdict").splitlines()
    assert lines[0].startswith("- **Finished** after 1040 of 1040 sweeps of 4 chains in ")
    assert lines[0].endswith("with 1000 draws a chain.")
    rhat = worst(array_stats.rhat, windows).max()
    assert lines[1].startswith(f"- R-hat is at most 1.01 for each of 7 parameters (worst {rhat:.3f}, ")
    assert lines[2].startswith(f"- At least {worst(array_stats.ess, windows).min():,.0f} effective draws in the bulk")
    rates = [np.mean([w.acceptance[b].mean() for w in windows[WARMUP:]]) for b in ("joint", "alpha")]
    assert lines[3] == f"- Acceptance in sampling: joint {rates[0]:.2f}, alpha {rates[1]:.2f}."
    assert lines[4] == "- No log density was NaN."
    assert lines[5] == "- Whether the model fits its rows was not looked at."
    assert len(lines) == 6


def test_the_verdict_on_a_bad_run(tmp_path):
    windows = make_windows(spread=1.0)
    stuck = []
    for w in windows:
        draws = {name: draw.clone() for name, draw in w.draws.items()}
        if draws:
            draws["mu"][:] = 2.0  # never moved: no R-hat, and no effective draws
        stuck.append(replace(w, draws=draws, acceptance={"joint": torch.full((4,), 0.01), "alpha": torch.rand(4, 3)}))
    feed(Board(tmp_path), stuck)
    main = load(tmp_path)
    verdict = text(main, "2_summary/verdict")
    rhats = worst(array_stats.rhat, windows, ("beta", "alpha"))
    assert "⚠ R-hat is above 1.01 for 7 of 7 parameters (mu inf, Omega[1, 0] " in verdict
    assert f"{rhats.max():.3f}, " in verdict and verdict.count("alpha") < 4 and ", ...): run longer." in verdict
    assert "⚠ At worst 0 effective draws in the bulk (mu) and 0 in the tails (mu), where 400 are wanted" in verdict
    assert "⚠ Less than 5% of the proposals were accepted in joint." in verdict
    assert "⚠ 4 log densities were NaN (rejected)." in verdict
    assert scalars(main, "convergence/rhat_max")[RUN.sweeps] == np.inf
    assert scalars(main, "convergence/ess_bulk_min")[RUN.sweeps] == 0


def many_groups(apart):
    """Draws of 300 groups, of which some have chains that stand apart; a chain has few, so that screening errs."""
    generator = torch.Generator().manual_seed(5)
    draws = {
        "alpha": torch.randn(16, 100, 300, generator=generator),
        "mu": torch.randn(16, 100, 1, generator=generator),
    }
    draws["alpha"][..., :apart] += torch.linspace(-2, 2, 16)[:, None, None]
    run = replace(RUN, names=("mu", "alpha"), plates={"mu": None, "alpha": "school"}, labels={}, event_labels={})
    values = {name: x[:, -1] for name, x in draws.items()}
    return Eye(run, watch(run, values, 5), places(run, values)).look(draws, 0.1)


def test_screening_errs_and_is_not_believed_alone():
    look = many_groups(apart=0)
    assert (look.screen > 1.01).sum() > 20 and not (look.rhat > 1.05).any()  # from some ten draws of a chain
    assert (look.all_rhat > 1.01).sum() == (look.rhat > 1.01).sum() < 10


def test_groups_at_odds_are_found_among_many():
    look = many_groups(apart=40)
    assert (look.rhat[look.shown :] > 1.5).all() and len(look.rhat) == 15
    assert all(k < 40 for name, k in look.at[look.shown :])
    assert (look.all_rhat > 1.3).sum() == 40


def test_one_chain_has_no_rhat(tmp_path):
    feed(Board(tmp_path), make_windows(chains=1))
    main = load(tmp_path)
    assert "convergence/rhat_max" not in main.Tags()["scalars"]
    assert "convergence/ess_bulk_min" in main.Tags()["scalars"]
    assert "R-hat is unknown: it compares chains, and there is one." in text(main, "2_summary/verdict")


def test_a_run_that_ends_early_says_so(tmp_path):
    feed(Board(tmp_path / "a"), make_windows()[:6], status="interrupted")
    verdict = text(load(tmp_path / "a"), "2_summary/verdict")
    assert verdict.startswith("- **Interrupted** after 60 of 160 sweeps of 4 chains in ")
    assert "20 draws a chain" in verdict
    feed(Board(tmp_path / "b"), make_windows()[:3], status="failed")
    assert "Convergence is unknown so far." in text(load(tmp_path / "b"), "2_summary/verdict")
    feed(Board(tmp_path / "c"), [], status="failed")
    assert text(load(tmp_path / "c"), "2_summary/verdict") == "- **Failed** before the first window of 160 sweeps."


def test_a_second_run_in_a_folder_replaces_the_first(tmp_path):
    feed(Board(tmp_path), make_windows(seed=1))
    second = make_windows(seed=2)[:6]
    feed(Board(tmp_path), second)
    chain = load(tmp_path / "chain_0")
    found = scalars(chain, "trace/mu")
    assert list(found) == [10, 20, 30, 40, *range(41, 61)]
    assert [found[w.sweep] for w in second] == [w.values["mu"][0].item() for w in second]
    assert text(load(tmp_path), "2_summary/verdict").startswith("- **Finished** after 60 of 160")


def test_a_folder_that_cannot_be_written_is_an_error_before_sampling(tmp_path):
    (tmp_path / "file").write_text("")
    monitor = Board(tmp_path / "file" / "fit")
    with pytest.raises(RunFolderError, match=r"file/fit' can't be written \(Not a directory\); give another log_dir"):
        monitor.start(RUN)
    monitor.stop("failed")  # does nothing, as nothing was opened


@pytest.mark.usefixtures("idle")
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_ends_the_dashboard_and_not_the_run(tmp_path):
    monitor = Board(tmp_path)
    windows = make_windows()
    monitor.start(RUN)
    for window in windows[:6]:
        monitor.window(window)
    monitor._handle(monitor._worker._taken())
    monitor._board._files[0]._records.close()
    monitor._board._files[0]._records = RecordWriter(open("/dev/full", "wb"))  # noqa: SIM115 (the monitor closes it)
    for window in windows[6:]:
        monitor.window(window)
    with pytest.warns(SamplingWarning, match=r"end at sweep 60 \(OSError: .*No space left.*\); the draws are complete"):
        monitor.stop("finished")
    assert list(scalars(load(tmp_path), "sampler/phase")) == [10, 20, 30, 40, 50, 60]


def test_it_says_how_to_look(tmp_path):
    stream = io.StringIO()
    feed(TensorBoardMonitor(tmp_path / "my runs" / "fit", stream=stream), [])
    assert f"tensorboard --logdir '{tmp_path}/my runs', at http://localhost:6006" in stream.getvalue()
    assert "http://localhost:6006/#custom_scalars" in stream.getvalue() and stream.getvalue().count("\n") == 1
    quiet = io.StringIO()
    feed(TensorBoardMonitor(tmp_path / "my runs" / "fit", stream=quiet, announce=False), [])
    assert not quiet.getvalue()


@pytest.mark.parametrize("share", [0.0, 1.5, -0.1, True, "much", float("nan")])
def test_a_share_is_between_0_and_1(share, tmp_path):
    with pytest.raises(SamplingError, match="share= is the part of a run's time that watching may cost"):
        Board(tmp_path, share=share)


@pytest.mark.parametrize("log_dir", [None, 3, b"runs"])
def test_a_folder_is_a_path(log_dir):
    with pytest.raises(SamplingError, match="log_dir must be the path of a folder, found "):
        Board(log_dir)


def test_hparams_do_not_hide_the_columns_of_every_run(tmp_path):
    with pytest.raises(SamplingError, match="hparams= come beside model, kernel, seed; found 'seed': choose another"):
        Board(tmp_path, hparams={"prior": "wide", "seed": 3})


def test_ctrl_c_at_the_end_does_not_cost_the_draws(tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monitor, windows = Board(tmp_path), make_windows()
    monitor.start(RUN)
    for window in windows:
        monitor.window(window)
    monkeypatch.setattr(monitor._board, "finish", interrupted)
    with pytest.warns(SamplingWarning, match=r"\(KeyboardInterrupt: \); the draws are complete without them"):
        monitor.stop("finished")


@pytest.mark.parametrize("hparams", [{"a": None}, {"a": [1]}, {1: "a"}])
def test_hparams_are_texts_numbers_and_bools(hparams, tmp_path):
    with pytest.raises(SamplingError, match="hparams= are names with a text, a number or a bool"):
        Board(tmp_path, hparams=hparams)


def test_the_worker_hands_over_everything_in_order_and_never_blocks():
    handled, gate = [], threading.Event()

    def handle(items):
        gate.wait(10.0)
        handled.extend(items)

    worker = Worker(handle, lambda: handled.append("prepared"), every=1e-3)
    for k in range(3_000):
        worker.put(k)  # while the thread stands still
    gate.set()
    left = worker.end()
    assert handled + left == ["prepared", *range(3_000)] and not worker._thread.is_alive()


def test_the_end_does_not_wait_for_ever():
    begun, gate = threading.Event(), threading.Event()
    worker = Worker(lambda items: begun.set() or gate.wait(10.0), every=1e-3)
    worker.put(1)
    assert begun.wait(10.0)
    with pytest.raises(TimeoutError, match="what it began has not come to its end in 0 s"):
        worker.end(0.01)
    gate.set()
    worker._thread.join(10.0)


def test_the_worker_does_not_wait_for_its_time_if_there_is_much():
    handled = threading.Event()
    worker = Worker(lambda items: handled.set(), every=1e6)
    for k in range(MANY):
        worker.put(k)
    assert handled.wait(10.0)
    assert worker.end() == []


@pytest.mark.usefixtures("idle")
def test_an_error_in_the_thread_is_told_at_the_end(tmp_path, monkeypatch):
    monitor = Board(tmp_path)
    monitor.start(RUN)
    windows = make_windows()
    monitor.window(windows[0])
    monkeypatch.setattr(monitor._board, "add", lambda *_: 1 / 0)
    monitor._handle(monitor._worker._taken())
    for window in windows[1:]:
        monitor.window(window)  # is ignored
    assert not monitor._worker._taken()
    with pytest.warns(SamplingWarning, match=r"end at sweep 0 \(ZeroDivisionError: .*\); the draws are complete"):
        monitor.stop("finished")


def test_an_error_while_handing_over_is_told_at_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr("hiertorch.dashboard.snapshots.snapshot", lambda *_: 1 / 0)
    monitor = Board(tmp_path)
    with pytest.warns(SamplingWarning, match=r"end at sweep 0 \(ZeroDivisionError"):
        feed(monitor, make_windows())


@pytest.mark.usefixtures("idle")
def test_an_error_in_one_figure_costs_that_figure(tmp_path, monkeypatch):
    met = []
    monkeypatch.setattr("hiertorch.dashboard.panels.pair", lambda *_: met.append(1 / 0))
    monitor, windows = Board(tmp_path), make_windows()
    monitor.start(RUN)
    for window in windows[:10]:
        monitor.window(window)
    board = monitor._board
    monitor._handle(monitor._worker._taken())
    board._see(board._last, 100, 60)
    board._show(board._last)  # and again at the end, where it is not met a second time
    assert list(board.problems) == ["figures/pair"]
    for window in windows[10:]:
        monitor.window(window)
    with pytest.warns(
        SamplingWarning, match=r"have no figures/pair \(ZeroDivisionError: .*\); the draws are not"
    ) as told:
        monitor.stop("finished")
    assert len(told) == 1
    assert set(load(tmp_path).Tags()["images"]) == {"figures/rank", "figures/forest", "figures/acceptance"}
    assert text(load(tmp_path), "2_summary/verdict").startswith("- **Finished** after 160")

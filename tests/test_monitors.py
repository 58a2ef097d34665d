"""Monitors: what they write is what they were told, they change nothing, and they survive what goes wrong."""

import io
import json
import logging
import random
import re
import shutil
import subprocess
import sys
import threading
import time
import urllib.request
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from arviz_stats.base import array_stats
from tensorboard.backend.event_processing.event_accumulator import STORE_EVERYTHING_SIZE_GUIDANCE, EventAccumulator  # type: ignore[import-untyped]
from tensorboard.compat.tensorflow_stub import pywrap_tensorflow  # type: ignore[import-untyped]
from tensorboard.plugins.custom_scalar import layout_pb2  # type: ignore[import-untyped]

from hiertorch.dashboard.records import crc32c
from hiertorch.errors import RunFolderError, SamplingWarning
from hiertorch.monitors import Monitor, ProgressBar, RunInfo, TensorBoard, Window, parameter_names
from hiertorch.monitors.base import Budget, safe_tags, watch

SCHOOLS = pd.Index(["Åsa Skola", "St. Mary's / 7", " North "])
SIZE, WARMUP, SAMPLING = 10, 4, 12  # sweeps a window; windows

RUN = RunInfo(
    model="VaryingIntercepts",
    model_text="y_ij ~ Normal(alpha_j + beta x_ij, sigma_y)",
    plan_text="joint: mu, beta\nalpha: groupwise",
    settings={"chains": 4, "seed": 7, "device": "cpu", "note": "a|b", "versions": {"torch": "2"}},
    names=("beta", "Omega", "alpha", "mu"),
    plates={"beta": None, "Omega": None, "alpha": "school", "mu": None},
    labels={"school": SCHOOLS},
    event_labels={"beta": (("SES", "sector"),), "Omega": ((0, 1), (0, 1)), "alpha": (), "mu": ()},
    blocks={"joint": None, "alpha": "school"},
    sweeps=SIZE * (WARMUP + SAMPLING),
)
SHAPES = {"beta": (1, 2), "Omega": (1, 2, 2), "alpha": (3,), "mu": (1,)}


def make_windows(chains=4, size=SIZE, warmup=WARMUP, sampling=SAMPLING, spread=0.0, seed=1):
    """Independent draws, except that chain c is shifted by c * spread."""
    generator = torch.Generator().manual_seed(seed)
    sweeps = size * (warmup + sampling)
    every = {name: torch.randn(chains, sweeps, *shape, generator=generator) for name, shape in SHAPES.items()}
    for value in every.values():
        value += spread * torch.arange(chains).reshape(-1, *[1] * (value.ndim - 1))
    r = every["Omega"][..., 0, 1].tanh()
    every["Omega"] = torch.stack([torch.ones_like(r), r, r, torch.ones_like(r)], -1).unflatten(-1, (2, 2))
    windows = []
    for w in range(1, warmup + sampling + 1):
        windows.append(
            Window(
                phase="warmup" if w <= warmup else "sampling",
                sweep=w * size,
                values={name: value[:, w * size - 1] for name, value in every.items()},
                log_density=torch.randn(chains, generator=generator),
                acceptance={
                    "joint": torch.rand(chains, generator=generator),
                    "alpha": torch.rand(chains, 3, generator=generator),
                },
                nan=w // 4,
                draws={} if w <= warmup else {k: v[:, warmup * size : w * size] for k, v in every.items()},
            )
        )
    return windows


def feed(monitor, windows, run=RUN, status="finished"):
    monitor.start(run)
    for window in windows:
        monitor.window(window)
    monitor.stop(status)


def load(folder):
    accumulator = EventAccumulator(str(folder), size_guidance=STORE_EVERYTHING_SIZE_GUIDANCE)
    accumulator.Reload()
    return accumulator


def scalars(run, tag):
    """`{step: value}` as written, after checking that steps increase."""
    events = run.Scalars(tag)
    assert (np.diff([event.step for event in events]) > 0).all(), tag
    return {event.step: event.value for event in events}


def text(run, tag):
    return run.Tensors(tag)[-1].tensor_proto.string_val[0].decode()


def worst(statistic, windows, names=("beta", "Omega", "alpha", "mu")):
    """ArviZ's statistic of every parameter that can vary, from all draws."""
    draws = {**windows[-1].draws, "Omega": windows[-1].draws["Omega"][:, :, :, 1, 0]}
    columns = [draws[name].flatten(2) for name in names]
    return statistic(torch.cat(columns, 2).double().numpy(), chain_axis=0, draw_axis=1)


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
    assert parameter_names(run, "b", (2, 2)) == ["b[A, 1, x]", "b[A, 1, z]", "b[B, 1, x]", "b[B, 1, z]"]


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
    assert chosen.size(window.draws, 50) == thinned.numel()
    np.testing.assert_array_equal(thinned[:, :, 4:].numpy(), window.draws["alpha"][:, 2::3].numpy())
    np.testing.assert_array_equal(chosen.draws(window.draws, 120)[:, :, 0].numpy(), window.draws["mu"][..., 0].numpy())


def test_budget_waits_for_its_time_and_its_share():
    now = [0.0]
    budget = Budget(share=0.1, every=5.0, unit=1e-3, clock=lambda: now[0])
    now[0] = 4.0
    assert not budget.allows(1)  # too early
    now[0] = 5.0
    assert budget.allows(400) and not budget.allows(600)  # 0.4 s and 0.6 s of 5 s, when 0.5 s are allowed
    with budget.spending(400):
        now[0] = 7.0  # 2 s: five times what was expected
    now[0] = 20.0
    assert not budget.allows(1)
    now[0] = 30.0
    assert budget.allows(199) and not budget.allows(201)  # 2 s spent, 1 s left, 5 ms each
    with pytest.raises(KeyError), budget.spending(1):
        now[0] = 31.0
        raise KeyError
    assert budget.spent == 3.0


# TensorBoard


def test_scalars_are_what_the_windows_held(tmp_path):
    windows = make_windows()
    feed(TensorBoard(tmp_path / "runs" / "fit"), windows)
    main = load(tmp_path / "runs" / "fit")
    assert sorted(p.name for p in (tmp_path / "runs" / "fit").iterdir() if p.is_dir()) == [
        f"chain_{c}" for c in range(4)
    ]
    tags = {
        "mu": ("mu", 0), "beta[SES]": ("beta", 0), "beta[sector]": ("beta", 1), "Omega[1, 0]": ("Omega", 2),
        "alpha[Åsa Skola]": ("alpha", 0), "alpha[St. Mary's | 7]": ("alpha", 1), "alpha[ North ]": ("alpha", 2),
    }  # fmt: skip
    for c in range(4):
        chain = load(tmp_path / "runs" / "fit" / f"chain_{c}")
        assert set(chain.Tags()["scalars"]) == {
            "sampler/log_prob",
            "sampler/accept_rate",
            *(f"trace/{t}" for t in tags),
        }
        for tag, (name, k) in tags.items():
            assert scalars(chain, f"trace/{tag}") == {w.sweep: w.values[name][c].flatten()[k].item() for w in windows}
        assert scalars(chain, "sampler/log_prob") == {w.sweep: w.log_density[c].item() for w in windows}
        rates = [(w.acceptance["joint"][c] + w.acceptance["alpha"][c].mean()).item() / 2 for w in windows]
        assert list(scalars(chain, "sampler/accept_rate").values()) == pytest.approx(rates)
    for block in ("joint", "alpha"):
        rates = [w.acceptance[block].numpy().mean() for w in windows]
        assert list(scalars(main, f"sampler/block/{block}/accept_rate").values()) == pytest.approx(rates)
    assert list(scalars(main, "sampler/phase").values()) == [0.0] * WARMUP + [1.0] * SAMPLING
    assert scalars(main, "sampler/nan_log_density") == {w.sweep: w.nan for w in windows}
    assert list(scalars(main, "perf/draws_per_s")) == [w.sweep for w in windows[1:]]
    assert min(scalars(main, "perf/draws_per_s").values()) > 0
    assert all(0 < share < 1 for share in scalars(main, "perf/monitor_share").values())
    assert not [tag for tag in main.Tags()["scalars"] if tag.startswith("trace")]


def test_convergence_is_that_of_arviz_at_the_end_and_on_the_way(tmp_path):
    windows = make_windows(spread=0.3)
    feed(TensorBoard(tmp_path), windows)
    main = load(tmp_path)
    halfway = windows[WARMUP + SAMPLING // 2 - 1]
    for tag, of in {
        "rhat_max": lambda w: worst(array_stats.rhat, w).max(),
        "ess_bulk_min": lambda w: worst(array_stats.ess, w).min(),
        "ess_tail_min": lambda w: worst(
            lambda x, **kw: array_stats.ess(x, method="tail", prob=(0.05, 0.95), **kw), w
        ).min(),
    }.items():
        found = scalars(main, f"convergence/{tag}")
        assert len(found) == 4  # a short run is looked at in quarters, at its end
        assert found[RUN.sweeps] == pytest.approx(of(windows), rel=1e-5)
        assert found[halfway.sweep] == pytest.approx(of([halfway]), rel=1e-5)


def test_a_long_run_keeps_within_the_points_and_means_over_what_it_skips(tmp_path):
    windows = make_windows(chains=2, size=1, warmup=100, sampling=1500)
    feed(TensorBoard(tmp_path), windows, replace(RUN, sweeps=1600))
    main, chain = load(tmp_path), load(tmp_path / "chain_1")
    for run in (main, chain):
        for tag in run.Tags()["scalars"]:
            steps = list(scalars(run, tag))
            assert len(steps) <= 800
            assert steps[-1] == 1600
    steps = list(scalars(chain, "trace/mu"))
    assert steps[:3] == [1, 4, 7]
    rates = scalars(main, "sampler/block/joint/accept_rate")
    assert rates[7] == pytest.approx(np.mean([w.acceptance["joint"].mean() for w in windows[4:7]]), rel=1e-6)


def test_many_chains_show_eight_and_quantiles_over_all(tmp_path):
    windows = make_windows(chains=12)
    feed(TensorBoard(tmp_path), windows)
    main = load(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_dir()) == [f"chain_{c}" for c in range(8)]
    sector = np.stack([w.values["beta"][:, 0, 1].double().numpy() for w in windows])  # (windows, chains)
    for name, q in {"q05": 0.05, "q50": 0.5, "q95": 0.95}.items():
        found = scalars(main, f"trace_quantiles/beta[sector]/{name}")
        assert list(found.values()) == pytest.approx(np.quantile(sector, q, axis=1), rel=1e-6)
    parameters = {tag.split("/")[1] for tag in main.Tags()["scalars"] if tag.startswith("trace_quantiles")}
    assert parameters == {"mu", "beta[SES]", "beta[sector]", "Omega[1, 0]"}
    assert "chains 0 to 7 of 12" in text(main, "1_run/contents")


def test_at_most_24_traces(tmp_path):
    windows = make_windows(chains=2, warmup=1, sampling=1)
    many = [replace(w, values={**w.values, "alpha": torch.randn(2, 500)}, draws={}) for w in windows]
    feed(TensorBoard(tmp_path), many, replace(RUN, labels={"school": pd.Index(range(500))}))
    traces = [tag for tag in load(tmp_path / "chain_0").Tags()["scalars"] if tag.startswith("trace/")]
    assert len(traces) == 24
    assert {"trace/mu", "trace/beta[SES]", "trace/Omega[1, 0]", "trace/alpha[0]", "trace/alpha[499]"} <= set(traces)
    assert "24 of 504 parameters: 4 population-level ones and 20 of the groups'" in text(
        load(tmp_path), "1_run/contents"
    )


@pytest.mark.parametrize("chains", [4, 12])
def test_the_layout_finds_its_tags(tmp_path, chains):
    feed(TensorBoard(tmp_path), make_windows(chains=chains))
    runs = [load(tmp_path), *(load(tmp_path / f"chain_{c}") for c in range(min(chains, 8)))]
    config = runs[0].Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0]
    layout = layout_pb2.Layout.FromString(config)
    have = {tag for run in runs for tag in run.Tags()["scalars"]}
    titles = [category.title for category in layout.category]
    assert titles == ["1 Health", "2 Traces by chain", "3 Median and 5% to 95% of all chains"][: 2 + (chains > 8)]
    for category in layout.category:
        for chart in category.chart:
            for pattern in chart.multiline.tag:
                matched = [tag for tag in have if re.match(pattern, tag)]
                assert matched and (len(matched) == 1 or "block" in pattern), pattern
            for band in chart.margin.series:
                assert {band.value, band.lower, band.upper} <= have
                assert band.value == f"trace_quantiles/{chart.title}/q50"
                assert band.lower == f"trace_quantiles/{chart.title}/q05"


def test_texts_say_what_was_run(tmp_path):
    feed(TensorBoard(tmp_path), make_windows())
    main = load(tmp_path)
    config = text(main, "1_run/config")
    assert config.startswith("| setting | value |\n|---|---|\n| chains | 4 |\n| seed | 7 |")
    assert "| note | a\\|b |" in config
    assert '```yaml\nchains: 4\nseed: 7\ndevice: "cpu"\nnote: "a|b"\nversions: {"torch": "2"}\n```' in config
    card = text(main, "1_run/model_card")
    assert card.startswith("## VaryingIntercepts\n\n```\ny_ij ~ Normal(alpha_j + beta x_ij, sigma_y)\n```")
    assert "## Plan\n\n```\njoint: mu, beta\nalpha: groupwise\n```" in card
    assert "the worst of all 7 parameters, from all draws" in text(main, "1_run/contents")


def test_the_model_card_shows_all_that_was_found_and_the_settings_do_not(tmp_path):
    found = ("warning: school: only 3 groups. Find more.", "note: y: 30 rows in all. Find more.")
    settings = {**RUN.settings, "findings": list(found)}
    feed(TensorBoard(tmp_path / "a"), [], replace(RUN, findings=found, settings=settings))
    card, config = (text(load(tmp_path / "a"), f"1_run/{tag}") for tag in ("model_card", "config"))
    assert "\n\n## Data\n\n```\n" + "\n".join(found) + "\n```\n\n## Plan" in card
    assert "only 3 groups" not in config and "| seed | 7 |" in config
    feed(TensorBoard(tmp_path / "b"), [])
    assert "## Data" not in text(load(tmp_path / "b"), "1_run/model_card")


def test_the_verdict_on_a_good_run(tmp_path):
    windows = make_windows(sampling=100)
    last = replace(windows[-1], nan=0)
    feed(TensorBoard(tmp_path), [*windows[:-1], last], replace(RUN, sweeps=last.sweep))
    lines = text(load(tmp_path), "2_summary/verdict").splitlines()
    assert lines[0].startswith("- **Finished** after 1040 of 1040 sweeps of 4 chains in ")
    assert lines[0].endswith("with 1000 draws a chain.")
    rhat = worst(array_stats.rhat, windows).max()
    assert lines[1].startswith(f"- R-hat is at most 1.01 for each of 7 parameters (worst {rhat:.3f}, ")
    assert lines[2].startswith(f"- At least {worst(array_stats.ess, windows).min():.0f} effective draws in the bulk")
    rates = [np.mean([w.acceptance[b].mean() for w in windows[WARMUP:]]) for b in ("joint", "alpha")]
    assert lines[3] == f"- Acceptance in sampling: joint {rates[0]:.2f}, alpha {rates[1]:.2f}."
    assert lines[4] == "- No log density was NaN."
    assert len(lines) == 5


def test_the_verdict_on_a_bad_run(tmp_path):
    windows = make_windows(spread=1.0)
    stuck = []
    for w in windows:
        draws = {name: draw.clone() for name, draw in w.draws.items()}
        if draws:
            draws["mu"][:] = 2.0  # never moved: no R-hat, and no effective draws
        stuck.append(replace(w, draws=draws, acceptance={"joint": torch.full((4,), 0.01), "alpha": torch.rand(4, 3)}))
    feed(TensorBoard(tmp_path), stuck)
    main = load(tmp_path)
    verdict = text(main, "2_summary/verdict")
    rhats = worst(array_stats.rhat, windows, ("beta", "alpha"))
    assert "⚠ R-hat is above 1.01 for 7 of 7 parameters (mu inf, Omega[1, 0] " in verdict
    assert f"{rhats.max():.3g}, " in verdict and verdict.count("alpha") < 4 and ", ...): run longer." in verdict
    assert "⚠ At worst 0 effective draws in the bulk (mu) and 0 in the tails (mu), where 400 are wanted" in verdict
    assert "⚠ Less than 5% of the proposals were accepted in joint." in verdict
    assert "⚠ 4 log densities were NaN (rejected)." in verdict
    assert scalars(main, "convergence/rhat_max")[RUN.sweeps] == np.inf
    assert scalars(main, "convergence/ess_bulk_min")[RUN.sweeps] == 0


def test_one_chain_has_no_rhat(tmp_path):
    feed(TensorBoard(tmp_path), make_windows(chains=1))
    main = load(tmp_path)
    assert "convergence/rhat_max" not in main.Tags()["scalars"]
    assert "convergence/ess_bulk_min" in main.Tags()["scalars"]
    assert "R-hat is unknown: it compares chains, and there is one." in text(main, "2_summary/verdict")


def test_a_run_that_ends_early_says_so(tmp_path):
    feed(TensorBoard(tmp_path / "a"), make_windows()[:6], status="interrupted")
    verdict = text(load(tmp_path / "a"), "2_summary/verdict")
    assert verdict.startswith("- **Interrupted** after 60 of 160 sweeps of 4 chains in ")
    assert "20 draws a chain" in verdict
    feed(TensorBoard(tmp_path / "b"), make_windows()[:3], status="failed")
    assert "Convergence is unknown: it needs 8 draws a chain." in text(load(tmp_path / "b"), "2_summary/verdict")
    feed(TensorBoard(tmp_path / "c"), [], status="failed")
    assert text(load(tmp_path / "c"), "2_summary/verdict") == "- **Failed** before the first window of 160 sweeps."


def test_a_second_run_in_a_folder_replaces_the_first(tmp_path):
    feed(TensorBoard(tmp_path), make_windows(seed=1))
    second = make_windows(seed=2)[:6]
    feed(TensorBoard(tmp_path), second)
    chain = load(tmp_path / "chain_0")
    assert scalars(chain, "sampler/log_prob") == {w.sweep: w.log_density[0].item() for w in second}
    assert text(load(tmp_path), "2_summary/verdict").startswith("- **Finished** after 60 of 160")


def test_a_folder_that_cannot_be_written_is_an_error_before_sampling(tmp_path):
    (tmp_path / "file").write_text("")
    monitor = TensorBoard(tmp_path / "file" / "fit")
    with pytest.raises(RunFolderError, match=r"file/fit' can't be written \(Not a directory\); give another log_dir"):
        monitor.start(RUN)
    monitor.stop("failed")  # does nothing, as nothing was opened


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_ends_the_dashboard_and_not_the_run(tmp_path):
    monitor = TensorBoard(tmp_path)
    windows = make_windows()
    monitor.start(RUN)
    for window in windows[:6]:
        monitor.window(window)
    monitor._files[0]._file.close()
    monitor._files[0]._file = open("/dev/full", "wb")  # noqa: SIM115 (the monitor closes it)
    for window in windows[6:]:
        monitor.window(window)
    with pytest.warns(SamplingWarning, match=r"end at sweep 60 \(OSError: .*No space left.*\); the draws are complete"):
        monitor.stop("finished")
    assert list(scalars(load(tmp_path), "sampler/phase")) == [10, 20, 30, 40, 50, 60]


def test_it_says_how_to_look(tmp_path, caplog):
    with caplog.at_level(logging.INFO, logger="hiertorch"):
        feed(TensorBoard(tmp_path / "my runs"), [])
    assert f"tensorboard --logdir '{tmp_path}/my runs' --host 127.0.0.1 --port 6006" in caplog.text
    assert "http://127.0.0.1:6006/#custom_scalars" in caplog.text
    assert "reloads by itself only if told to" in caplog.text


def test_importing_monitors_does_not_import_tensorboard():
    code = "import hiertorch.monitors, sys; print(*sys.modules)"
    root = Path(__file__).parents[1]
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root).stdout
    assert not [module for module in found.split() if module.startswith(("tensorboard", "torch.utils.tensorboard"))]
    assert "hiertorch.monitors.tensorboard" in found.split()


def test_checksums_are_those_of_tensorboard():
    generator = random.Random(5)
    for length in [*range(4, 40), 511, 512, 513, 1023, 1024, 1025, 5000]:
        data = generator.randbytes(length)
        assert crc32c(data) == pywrap_tensorflow.crc32c(data)
    assert crc32c(b"123456789") == 0xE3069283  # the check value of RFC 3720's CRC


# Progress bar


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self):
        return True


def start_without_pause(bar):
    bar.start(RUN)
    bar._bar.mininterval = 0  # every window is shown


def test_the_bar_in_a_log_file_is_few_whole_lines():
    stream, windows = io.StringIO(), make_windows(spread=0.3)
    feed(ProgressBar(stream), windows)
    lines = stream.getvalue().splitlines()
    assert "\r" not in stream.getvalue()
    assert len(lines) == 2
    assert re.fullmatch(r"warm-up   0% 0/160 \[00:00<\?, \?/s\]", lines[0])
    rates = np.mean([windows[-1].acceptance[block].mean() for block in ("joint", "alpha")])
    rhat = worst(array_stats.rhat, windows).max()
    assert re.match(r"finished 100% 160/160 \[00:\d\d<00:00, +[\d.]+/s, ", lines[1])
    assert f"accept {rates:.2f}, NaN 4, R-hat {rhat:.2f} (" in lines[1]


def test_above_the_bar_stands_what_was_found():
    chosen = {f"sigma_{k}": f"HalfStudentT(4, {k}.5)" for k in range(1, 5)}
    words = " ".join(f"word{k:02}" for k in range(20))  # 6 letters each: 13 fill a line of 110 behind its first words
    found = (
        "error: x: it varies within none of 3 groups of school. Make it a group-level predictor.",
        f"warning: school: {words}",
        "note: y: 30 rows in all. Find more.",
        "note: school: the largest group has 20 rows.",
    )
    for stream in (io.StringIO(), Terminal()):
        feed(ProgressBar(stream), [], replace(RUN, findings=found, priors=chosen))
        head = re.split(r"\r?warm-up", stream.getvalue())[0].splitlines()
        assert head == [
            "priors by the data's scale: sigma_1 ~ HalfStudentT(4, 1.5), sigma_2 ~ HalfStudentT(4, 2.5),",
            "  sigma_3 ~ HalfStudentT(4, 3.5), sigma_4 ~ HalfStudentT(4, 4.5)",
            "error: x: it varies within none of 3 groups of school. Make it a group-level predictor.",
            f"warning: school: {words[: 13 * 7 - 1]}",
            f"  {words[13 * 7 :]}",
            "2 notes: data.check(model) lists them",
        ]
    stream = io.StringIO()
    feed(ProgressBar(stream), [], replace(RUN, findings=found[2:3]))
    assert stream.getvalue().splitlines()[0] == "1 note: data.check(model) lists it"


def test_the_bar_on_a_terminal_shows_both_phases():
    stream, windows = Terminal(), make_windows()
    bar = ProgressBar(stream)
    start_without_pause(bar)
    for window in windows:
        bar.window(window)
    bar.stop("interrupted")
    states = stream.getvalue().split("\r")
    for w in windows:
        phase = "warm-up" if w.phase == "warmup" else "sampling"
        rates = np.mean([w.acceptance[block].mean() for block in ("joint", "alpha")])
        shown = [state for state in states if state.startswith(f"{phase} |") and f" {w.sweep}/160 [" in state]
        assert len(shown) == 1 and f"accept {rates:.2f}" in shown[0]
    assert "█" in states[-1] and states[-1].startswith("interrupted |") and states[-1].endswith("\n")


def test_the_bar_looks_at_rhat_during_sampling_when_it_may():
    stream, windows = Terminal(), make_windows(spread=0.3)
    now = [0.0]
    bar = ProgressBar(stream)
    start_without_pause(bar)
    bar._budget = Budget(share=0.02, every=5.0, unit=3e-7, clock=lambda: now[0])
    for window in windows[:-1]:
        now[0] += 2.0
        bar.window(window)
    looked = re.findall(r" (\d+)/160 \[[^]]*R-hat ([\d.]+)", stream.getvalue())
    assert looked[0][0] == "50"  # the first window with draws
    at = {sweep: windows[int(sweep) // SIZE - 1] for sweep in ("50", "80", "110", "140")}
    assert {s: r for s, r in looked if s in at} == {
        s: f"{worst(array_stats.rhat, [w]).max():.2f}" for s, w in at.items()
    }
    bar.stop("failed")  # a failed run isn't computed on
    assert stream.getvalue().split("\r")[-1].startswith("failed")


def test_the_bar_with_one_chain_or_no_window_has_no_rhat():
    for chains in (1, 0):
        windows = make_windows(chains) if chains else []
        stream = io.StringIO()
        feed(ProgressBar(stream), windows)
        assert "R-hat" not in stream.getvalue() and "finished" in stream.getvalue()


# Every monitor


@pytest.mark.parametrize("kind", ["nothing", "bar", "tensorboard"])
def test_attaching_changes_nothing(kind, tmp_path):
    monitor = {"nothing": Monitor(), "bar": ProgressBar(io.StringIO()), "tensorboard": TensorBoard(tmp_path)}[kind]
    windows, again = make_windows(chains=9), make_windows(chains=9)
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    threads = threading.enumerate()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        feed(monitor, windows)
        feed(monitor, windows)  # a monitor can be used again
        monitor.stop("finished")  # and stopped twice
    assert threading.enumerate() == threads
    assert torch.equal(torch.get_rng_state(), states[0])
    assert all(np.array_equal(a, b) for a, b in zip(np.random.get_state(), states[1], strict=True))
    assert random.getstate() == states[2]
    for window, same in zip(windows, again, strict=True):
        for found, expected in ((window.values, same.values), (window.draws, same.draws)):
            assert all(torch.equal(found[name], expected[name]) for name in expected)
        assert torch.equal(window.log_density, same.log_density)
        assert all(torch.equal(window.acceptance[name], same.acceptance[name]) for name in same.acceptance)


# The page


def until(look, seconds=30.0):
    end = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < end, "the page didn't get there"
        time.sleep(0.2)
    return found


@pytest.fixture
def address(tmp_path):
    """Where TensorBoard shows a finished run."""
    feed(TensorBoard(tmp_path), make_windows(chains=12))
    command = [
        sys.executable,
        "-m",
        "tensorboard.main",
        "--logdir",
        str(tmp_path),
        "--host",
        "127.0.0.1",
        "--port",
        "0",
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as server:
        assert server.stderr is not None
        try:
            yield next(found.group() for line in server.stderr if (found := re.search(r"http://127.0.0.1:\d+", line)))
        finally:
            server.terminate()


@pytest.fixture
def browser():
    webdriver = pytest.importorskip("selenium.webdriver")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.skip("needs chromium and chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location, options.page_load_strategy = chromium, "eager"
    for argument in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", "window-size=1500,2000"):
        options.add_argument(f"--{argument}")
    with webdriver.Chrome(options=options, service=webdriver.ChromeService(driver)) as browser:
        yield browser


# The page's elements sit in nested shadow roots, which CSS selectors do not cross.
TEXTS = """
    const [selector] = arguments, found = [];
    (function walk(root) {
        for (const element of root.querySelectorAll('*')) {
            if (element.matches(selector)) found.push(element.innerText || '');
            if (element.shadowRoot) walk(element.shadowRoot);
        }
    })(document);
    return found;"""


@pytest.mark.slow
@pytest.mark.browser
def test_a_person_sees_charts_and_texts(browser, address):
    def see(selector):
        return browser.execute_script(TEXTS, selector)

    def runs():
        with urllib.request.urlopen(f"{address}/data/runs", timeout=10) as answer:
            return set(json.load(answer))

    until(lambda: runs() == {".", *(f"chain_{c}" for c in range(8))})
    for tab, drawn, least in (("scalars", "path", 8), ("custom_scalars", "path.area", 4), ("text", "td", 10)):
        browser.get("about:blank")  # tabs differ in the fragment only: without this, nothing is loaded
        browser.get(f"{address}/#{tab}")
        until(lambda drawn=drawn, least=least: len(see(drawn)) >= least)
        severe = [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
        assert not [entry for entry in severe if "favicon" not in entry["message"]]
    texts = " ".join(see("h2, li, td"))
    assert "VaryingIntercepts" in texts and "a|b" in texts and "Finished after 160 of 160 sweeps of 12 chains" in texts


@pytest.mark.filterwarnings("ignore::hiertorch.errors.SamplingWarning")
@pytest.mark.parametrize(("collapse", "blocks"), [(False, 4), (True, 1)])
def test_tags_of_blocks_have_no_signs_for_which_custom_scalars_draws_no_curve(collapse, blocks, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.distributions import Normal

    import hiertorch as ht

    class Groups(ht.Model):
        mu = ht.Latent(Normal(0.0, 1.0))
        beta = ht.Latent(Normal(0.0, 1.0))
        alpha = ht.Latent(lambda v: Normal(v.mu, 1.0), plate="g")

        def likelihood(self, v, data):
            return Normal(v.alpha[:, data.g] + v.beta * data.x, 1.0)

    data = ht.Data(y=[0.0, 1.0, 2.0, 3.0], x=[1.0, 0.0, 1.0, 0.0], groups={"g": [0, 1, 2, 0]})
    options = {"warmup": 60, "draws": 60, "seed": 1, "progress": False, "compile": False, "collapse": collapse}
    posterior = ht.sample(Groups(), data, chains=16, log_dir=tmp_path, **options)
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    tags = [tag for tag in events.Tags()["scalars"] if tag.startswith("sampler/block/")]
    assert len(tags) == blocks == len(posterior.stats.acceptance)
    assert not any(set("(),") & set(tag) for tag in tags)
    for tag in tags:
        assert all(0.0 < event.value <= 1.0 for event in events.Scalars(tag))
    traces = EventAccumulator(str(tmp_path / "chain_0"))
    traces.Reload()
    shown = [tag for tag in traces.Tags()["scalars"] if tag.startswith("trace/")]
    assert shown == ["trace/mu", "trace/beta", "trace/alpha[0]", "trace/alpha[1]", "trace/alpha[2]"]
    if collapse:  # what is integrated out is drawn for whoever looks at it
        assert all(abs(event.value) < 4.0 for tag in shown for event in traces.Scalars(tag))

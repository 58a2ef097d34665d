"""The contract of a monitor: it changes nothing, can be used again, and its errors cost no draw."""

import copy
import random
import threading
import warnings
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from builders import sampled
from windows import RUN, feed, make_windows

import hiertorch as ht
from hiertorch.errors import SamplingWarning
from hiertorch.models import CompletePooling
from hiertorch.monitors import Monitor, Window
from hiertorch.posterior import Posterior

ROWS = ht.Data([1.0, 0.2, 0.7, 2.1, 1.4, -0.3, 0.5, 1.1])


def assert_equal(one: Window, other: Window) -> None:
    for found, expected in ((one.values, other.values), (one.draws, other.draws), (one.acceptance, other.acceptance)):
        assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert torch.equal(one.log_density, other.log_density)


class MonitorContract:
    """A subclass says how one is made."""

    def monitor(self, folder: Path) -> Monitor:
        """A new one, which may write into this folder and nowhere else."""
        raise NotImplementedError

    @staticmethod
    def run(*monitors: Monitor) -> Posterior:
        options = {"chains": 3, "warmup": 40, "draws": 60, "thin": 1, "seed": 7, "collapse": True}
        return sampled(CompletePooling(priors="tutorial"), ROWS, monitors=monitors, **options)

    @classmethod
    @cache
    def alone(cls) -> Posterior:
        return cls.run()

    def assert_same_draws(self, posterior: Posterior) -> None:
        assert posterior.names == self.alone().names
        assert all(torch.equal(x, self.alone().draws[name]) for name, x in posterior.draws.items())

    def test_attaching_changes_no_draw(self, tmp_path: Path) -> None:
        self.assert_same_draws(self.run(self.monitor(tmp_path)))

    @pytest.mark.parametrize("hook", ["window", "stop"])
    def test_an_error_loses_no_draw(self, hook: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monitor = self.monitor(tmp_path)
        monkeypatch.setattr(monitor, hook, lambda *_: 1 / 0)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always", SamplingWarning)
            posterior = ht.sample(
                CompletePooling(priors="tutorial"), ROWS, chains=3, warmup=40, draws=60, thin=1, seed=7, progress=False,
                monitors=[monitor],
            )  # fmt: skip
        assert any("stopped watching: ZeroDivisionError" in str(warning.message) for warning in told)
        self.assert_same_draws(posterior)

    def test_looking_changes_nothing_and_leaves_nothing_behind(self, tmp_path: Path) -> None:
        """Neither the windows, nor any global random numbers, nor a thread; and it can be used again."""
        monitor, windows, again = self.monitor(tmp_path), make_windows(chains=9), make_windows(chains=9)
        states = torch.get_rng_state(), np.random.get_state(), random.getstate()
        threads = threading.enumerate()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            feed(monitor, windows[:5], status="discarded")
            feed(monitor, windows)
            monitor.stop("finished")  # and stopped twice
        assert threading.enumerate() == threads
        assert torch.equal(torch.get_rng_state(), states[0]) and random.getstate() == states[2]
        assert all(np.array_equal(a, b) for a, b in zip(np.random.get_state(), states[1], strict=True))
        if monitor.only_looks:
            for window, same in zip(windows, again, strict=True):
                assert_equal(window, same)

    @pytest.mark.parametrize("status", ["finished", "interrupted", "failed", "discarded"])
    def test_a_run_that_ends_before_its_first_window(self, status: str, tmp_path: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            feed(self.monitor(tmp_path), [], status=status)

    def test_what_is_not_stored_is_not_asked_for(self, tmp_path: Path) -> None:
        """Values of all latents are there, draws of some."""
        some = [replace(w, draws={n: x for n, x in w.draws.items() if n == "mu"}) for w in copy.copy(make_windows())]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            feed(self.monitor(tmp_path), some, replace(RUN, stored=("mu",)))

"""A monitor that the package does not have, in one file: a table of acceptance rates, a line for each window."""

import csv
from pathlib import Path

import pytest
from contracts.monitors import MonitorContract

from hiertorch.draws.fit import Fit
from hiertorch.monitors import Monitor, RunInfo, Window


class Ledger(Monitor):
    """Writes `sweep, phase, block, rate` to a file, and how the run ended."""

    only_looks = True

    def __init__(self, path: Path) -> None:
        self.path = path
        self.told: list[str] = []

    def start(self, run: RunInfo) -> None:
        self.told.append("start")
        self.path.write_text("sweep,phase,block,rate\n")

    def window(self, window: Window) -> None:
        self.told.append("window")
        with self.path.open("a", newline="") as file:
            for block, rates in window.acceptance.items():
                csv.writer(file).writerow([window.sweep, window.phase, block, rates.mean().item()])

    def stop(self, status: str, posterior: Fit | None = None) -> None:
        self.told.append(status)
        self.drawn = None if posterior is None else posterior.n_draws


class TestLedger(MonitorContract):
    def monitor(self, folder: Path) -> Ledger:
        return Ledger(folder / "ledger.csv")

    def test_it_is_told_in_order_and_knows_what_came_out(self, tmp_path: Path) -> None:
        ledger = self.monitor(tmp_path)
        posterior = self.run(ledger)
        assert ledger.told == ["start", *["window"] * (len(ledger.told) - 2), "finished"] and len(ledger.told) > 2
        assert ledger.drawn == posterior.n_draws == 60
        rows = list(csv.DictReader(ledger.path.open()))
        sweeps = [int(row["sweep"]) for row in rows]
        assert sweeps == sorted(sweeps) and sweeps[-1] == posterior.run["sweeps"] == 100
        assert {row["block"] for row in rows} == set(posterior.stats.acceptance)
        assert all(0.0 <= float(row["rate"]) <= 1.0 for row in rows)

    def test_an_error_at_the_start_stops_the_run_before_it_costs_anything(self, tmp_path: Path) -> None:
        first, broken = self.monitor(tmp_path), Ledger(tmp_path / "nowhere" / "ledger.csv")
        with pytest.raises(FileNotFoundError):
            self.run(first, broken)
        assert first.told == ["start", "failed"] and broken.told == ["start"]

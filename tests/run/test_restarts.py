"""Runs that torchrun starts and starts again: one that has lost a process, and one that was told to end."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from processes import CASES, EXACT, LONGER, check, facts, rows, sampled

import hiertorch as ht
from hiertorch.monitors import Monitor, Window
from hiertorch.posterior import Posterior
from hiertorch.run import runfolder
from hiertorch.runtime.ranks import started_by_torchrun

EVERY = {"kill": 0.0, "terminate": 1e6}  # whoever is told to end has time to write what it has
WINDOWS = 3


class Ends(Monitor):
    """Kills the other process after some windows, or has torchrun end both."""

    def __init__(self, what: str, folder: Path) -> None:
        self.what, self.folder, self.left = what, folder, WINDOWS

    def window(self, window: Window) -> None:
        self.left -= 1
        if not self.left:
            (self.folder / "sweeps").write_text(str(window.sweep))
            if self.what == "kill":
                os.kill(int((self.folder / "second").read_text()), signal.SIGKILL)
            else:
                os.kill(os.getppid(), signal.SIGTERM)


def program(what: str, folder: Path) -> None:
    """A run, or what is left of it."""
    torch.set_num_threads(1)
    there = folder / "run"
    with started_by_torchrun() as first:
        if not first:
            (folder / "second").write_text(str(os.getpid()))
        if runfolder.is_run(there):
            if first:
                (folder / "resumed").write_text(str(runfolder.read(there).facts["done"]))
            found = ht.resume(there, CASES[EXACT][0](), rows("gaussian"), progress=False)
            if first:
                found.save(folder / "found")
        else:
            sampled(EXACT, 32, draws=LONGER, checkpoint=there, every=EVERY[what], monitors=[Ends(what, folder)])


@pytest.mark.slow
@pytest.mark.parametrize("what", ["kill", "terminate"])
def test_a_group_that_is_started_again_goes_on(what: str, tmp_path: Path) -> None:
    """By `--max-restarts`, or by whoever starts torchrun again; to the draws of one process that was never stopped."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["--max-restarts", "1"] if what == "kill" else []
    command += [__file__, what, str(tmp_path)]
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{root / 'tests'}", "OMP_NUM_THREADS": "1"}
    for start in range(1 if what == "kill" else 2):
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert (done.returncode == 0) == (what == "kill" or start == 1), done.stderr
    sweeps = int((tmp_path / "sweeps").read_text())
    assert 0 < int((tmp_path / "resumed").read_text()) <= sweeps < 40 + LONGER
    check(facts(sampled(EXACT, 32, draws=LONGER)), facts(Posterior.load(tmp_path / "found")), exact=True)


if __name__ == "__main__":
    program(sys.argv[1], Path(sys.argv[2]))

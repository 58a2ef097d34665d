"""Chains over processes: the draws of one, wherever its chains run; and what becomes of a run that loses a process."""

import os
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import CASES, EXACT, LONGER, RUN, check, facts, intercepts, rows, sampled, together

import hiertorch as ht
from hiertorch.monitors import Monitor, Window
from hiertorch.posterior import Posterior
from hiertorch.randomness import ChainStreams
from hiertorch.runtime.ranks import LostProcessError, Ranks, Share, ranks


def all_sampled(names: list[str], chains: int) -> list[dict[str, Any]]:
    return [facts(sampled(name, chains)) for name in names]


def test_chains_have_their_own_numbers_whoever_asks_for_them() -> None:
    """Also where a stream is shared by two processes, and after some were taken."""
    generator = torch.Generator().manual_seed(1)
    every = ChainStreams(generator, 20)
    every.uniform(7)
    state, whole = every.state(), every.uniform(9_000)
    for own in (range(6), range(6, 13), range(13, 20), range(8, 16)):
        part = ChainStreams(generator, len(own))
        part.restore(ChainStreams.part(state, own))
        found = torch.cat([part.uniform(n) for n in (1, 4_000, 4_999)])
        assert torch.equal(found, whole[:, own.start : own.stop])


class Told(Ranks):
    """Process 1 of 2, of which process 0 has said something."""

    said: torch.Tensor

    def parts(self, own: torch.Tensor, sizes: Any, *, first: bool = False) -> list[torch.Tensor]:
        return [self.said, own]


def test_parts_are_put_together_in_the_order_of_chains_and_laid_out_as_they_were() -> None:
    x = torch.arange(30.0, dtype=torch.float64).view(5, 3, 2).permute(2, 0, 1)  # (2, chains, 3)
    flags, nothing = torch.tensor([True, False, True, True, False]), torch.empty(5, 0)
    told = Told(1, 2)
    share = Share(5, told)
    assert share.sizes == [2, 3] and share.own == range(2, 5)
    rows_ = [x.movedim(1, 0).flatten(1).view(torch.uint8), flags.unsqueeze(1).view(torch.uint8)]
    told.said = torch.cat(rows_, 1)[:2]
    found = share.every([x[:, 2:], flags[2:], nothing[2:]], [1, 0, 0])
    assert torch.equal(found[0], x) and torch.equal(found[1], flags) and found[2].shape == (5, 0)
    order = sorted(range(3), key=x.stride, reverse=True)
    assert order == sorted(range(3), key=found[0].stride, reverse=True)


def test_too_few_chains() -> None:
    with pytest.raises(ht.SamplingError, match="2 chains can't be dealt out to 3 processes"):
        Share(2, Ranks(0, 3))


@pytest.mark.slow
def test_two_processes_and_four_give_the_draws_of_one(tmp_path: Path) -> None:
    """To the bit but for the last digits of some effects; warm-up ends alike, and every decision is the same."""
    names = list(CASES)
    alone = all_sampled(names, 64)
    first, second = together(2, tmp_path / "2", all_sampled, names, 64)
    for name, one, other, part in zip(names, alone, first, second, strict=True):
        check(one, other, exact=name == EXACT)
        latent = next(iter(one["tensors"]))
        assert torch.equal(part["tensors"][latent], other["tensors"][latent][32:])
    four, *_ = together(4, tmp_path / "4", all_sampled, names[:2], 64)
    for name, one, other in zip(names, alone, four[0:2], strict=False):
        check(one, other, exact=name == EXACT)


class Kills(Monitor):
    """Kills another process after some windows."""

    def __init__(self, folder: Path, windows: int) -> None:
        self.folder, self.left = folder, windows

    def window(self, window: Window) -> None:
        self.left -= 1
        if not self.left:
            os.kill(int((self.folder / "second").read_text()), signal.SIGKILL)


def killed(folder: Path, name: str, windows: int) -> str:
    """Of a run whose second process is killed, what the first one says."""
    if torch.distributed.get_rank():
        (folder / "second").write_text(str(os.getpid()))
    more = {"checkpoint": folder / "run", "every": 0.0, "monitors": [Kills(folder, windows)]}
    with pytest.raises(LostProcessError, match="process 0 of 2 has lost another process of this run") as error:
        sampled(name, 32, draws=LONGER, **more)
    return str(error.value)


def resumed(folder: Path, name: str) -> dict[str, Any]:
    make, family, _ = CASES[name]
    return facts(ht.resume(folder, make(), rows(family), progress=False))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ordinary", "whitened"])
def test_a_run_that_loses_a_process_ends_and_goes_on(name: str, tmp_path: Path) -> None:
    """In two processes, or in one."""
    said, nothing = together(2, tmp_path / "killed", killed, tmp_path, name, 3)
    assert nothing is None and "ht.resume" in said
    shutil.copytree(tmp_path / "run", tmp_path / "again")
    whole = facts(sampled(name, 32, draws=LONGER))
    parts = {path.name.rpartition("-")[2] for path in (tmp_path / "run").glob("draws-*of2.safetensors")}
    loaded = Posterior.load(tmp_path / "run")
    assert loaded.interrupted and loaded.n_draws < LONGER
    assert bool(parts) == (name == EXACT)  # the other one is killed in warm-up
    if parts:
        assert loaded.n_draws and parts == {"1of2.safetensors", "2of2.safetensors"}  # each has written its own
    for latent, x in loaded.draws.items():
        torch.testing.assert_close(x, whole["tensors"][latent][:, : loaded.n_draws], rtol=1e-12, atol=1e-12)
    first, _ = together(2, tmp_path / "resumed", resumed, tmp_path / "run", name)
    check(whole, first, exact=name == EXACT)
    check(whole, resumed(tmp_path / "again", name), exact=name == EXACT)


def answers_late(folder: Path, *, ever: bool) -> str:
    """What the first process says of a second one that computes for longer than the patience, and of one that is
    stopped.
    """
    with ranks(1.0, 0.1) as both:
        both.agreed([0.0])
        if both.first:
            assert both.each("first") == ["first", "second"]
            if ever:
                return "both"
            with pytest.raises(LostProcessError) as error:
                both.each("first")
            return str(error.value)
        assert both.heart is not None
        before, x = both.heart.beats, torch.eye(50)
        while both.heart.beats < before + 15:
            x = x @ x
        assert both.each("second") == ["first", "second"]
        if not ever:
            os.kill(os.getpid(), signal.SIGSTOP)
        return "both"


@pytest.mark.slow
def test_a_process_that_is_stopped_is_noticed_and_one_that_computes_is_waited_for(tmp_path: Path) -> None:
    assert together(2, tmp_path / "computes", partial(answers_late, ever=True), tmp_path) == ["both", "both"]
    said, nothing = together(2, tmp_path / "stopped", partial(answers_late, ever=False), tmp_path, stops=True)
    assert nothing is None and "process 0 of 2 has lost another process" in said and "no answer for 1 seconds" in said


def differing() -> None:
    data = rows("gaussian")
    y = data.y + 1.0 if torch.distributed.get_rank() else data.y
    ht.sample(intercepts("gaussian"), data.replace(y=y), **RUN)


@pytest.mark.slow
def test_all_processes_have_the_same_data(tmp_path: Path) -> None:
    for said in together(2, tmp_path / "group", differing):
        assert "process 1 of 2 was given data other than process 0" in said


@pytest.mark.slow
def test_torchrun_starts_the_program_in_several_processes(tmp_path: Path) -> None:
    """The first one shows and writes; draws are those of one process."""
    root = Path(__file__).parents[2]
    script = [str(root / "scripts/train.py"), "--config", str(root / "configs/eight_schools.yaml")]
    script += ["--sample.draws", "50", "--sample.progress", "false", "--sample.seed", "1", "--sample.chains", "32"]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    found = []
    for number in ("1", "2"):
        folder = tmp_path / number
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", number]
        command = [sys.executable, *(torchrun if number != "1" else []), *script, "--log_dir", str(folder)]
        done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("run folder:") == 1
        found.append(Posterior.load(folder / "draws.safetensors"))
    one, other = found
    for name, x in one.draws.items():
        torch.testing.assert_close(other.draws[name], x, rtol=1e-12, atol=1e-12)

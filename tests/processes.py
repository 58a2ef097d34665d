"""Runs in several processes: cases, what is kept of them, and how processes are started."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import multiprocessing

import hiertorch as ht
from hiertorch.models import Crossed, VaryingIntercepts
from hiertorch.posterior import Posterior

LONGER = 150
"""Draws of a run that has several windows."""

RUN: dict[str, Any] = {"progress": False, "compile": False, "seed": 3}


def rows(family: str) -> ht.Data:
    rng = np.random.default_rng(0)
    g, h, x = np.repeat(np.arange(12), 6), np.tile(np.arange(6), 12), rng.normal(size=72)
    eta = 0.5 * x + rng.normal(size=12)[g]
    y = eta + rng.normal(size=72) if family == "gaussian" else (rng.random(72) < 1 / (1 + np.exp(-eta))).astype(float)
    return ht.Data(y=y, groups={"g": g, "h": h}, x=x)


def crossed() -> Crossed:
    return Crossed(["g", "h"], ["x"], family="bernoulli")


def intercepts(family: str) -> VaryingIntercepts:
    return VaryingIntercepts("g", ["x"], family=family)


CASES: dict[str, tuple[Callable[[], Any], str, dict[str, Any]]] = {
    "ordinary": (lambda: intercepts("gaussian"), "gaussian", {"collapse": False, "warmup": 40, "draws": 20, "thin": 1}),
    "whitened": (lambda: intercepts("bernoulli"), "bernoulli", {"draws": 30}),
    "whitened, crossed": (crossed, "bernoulli", {"draws": 30}),
    "collapsed": (lambda: intercepts("gaussian"), "gaussian", {"draws": 40}),
    "collapsed until it suffices": (lambda: intercepts("gaussian"), "gaussian", {"until": ht.Until(ess=500)}),
}
EXACT = "ordinary"
"""Products and sums with other chains beside them round otherwise, here in the last digit of effects (1e-15)."""


def sampled(name: str, chains: int = 64, **more: Any) -> Posterior:
    make, family, settings = CASES[name]
    return ht.sample(make(), rows(family), chains=chains, **{**RUN, **settings, **more})


def facts(posterior: Posterior) -> dict[str, Any]:
    stats, run = posterior.stats, posterior.run
    kept = {"height": stats.log_density, **{f"rate of {name}": x for name, x in stats.acceptance.items()}}
    said = {name: run.get(name) for name in ("warmup", "draws", "sweeps", "interval", "stays", "status")}
    return {"tensors": {**posterior.draws, **kept}, "said": said}


def in_group(rank: int, number: int, folder: Path, work: Callable[..., object], *arguments: Any) -> None:
    """What a process does, and what came of it in a file of its own."""
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=number)
    try:
        torch.save(work(*arguments), folder / f"{rank}.pt")
    except ht.SamplingError as error:
        torch.save(f"{type(error).__name__}: {error}", folder / f"{rank}.pt")


def together(number: int, folder: Path, work: Callable[..., object], *arguments: Any, stops: bool = False) -> list[Any]:
    """What so many processes have found; None of one that was killed. Whether all but the first one stop."""
    folder.mkdir()
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(target=in_group, args=(rank, number, folder, work, *arguments)) for rank in range(number)
    ]
    for process in processes:
        process.start()
    processes[0].join(240)
    assert processes[0].exitcode is not None  # also where another one is stopped
    for process in processes[1:]:
        process.join(1 if stops else 240)
        assert (process.exitcode is None) == stops
        process.kill()
    files = [folder / f"{rank}.pt" for rank in range(number)]
    return [torch.load(path, weights_only=False) if path.is_file() else None for path in files]


def check(one: dict[str, Any], other: dict[str, Any], *, exact: bool) -> None:
    assert one["said"] == other["said"]
    assert one["tensors"].keys() == other["tensors"].keys()
    for name, x in one["tensors"].items():
        torch.testing.assert_close(other["tensors"][name], x, rtol=0 if exact else 1e-12, atol=0 if exact else 1e-12)

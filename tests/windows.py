"""A run that never was: what monitors are told, from independent draws, and what they wrote of it."""

import numpy as np
import pandas as pd
import torch
from tensorboard.backend.event_processing.event_accumulator import STORE_EVERYTHING_SIZE_GUIDANCE, EventAccumulator  # type: ignore[import-untyped]

from hiertorch.monitors import RunInfo, Window

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
    warmup=SIZE * WARMUP,
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
    density = torch.randn(chains, sweeps, generator=generator)
    windows = []
    for w in range(1, warmup + sampling + 1):
        windows.append(
            Window(
                phase="warmup" if w <= warmup else "sampling",
                sweep=w * size,
                values={name: value[:, w * size - 1] for name, value in every.items()},
                log_density=density[:, w * size - 1],
                acceptance={
                    "joint": torch.rand(chains, generator=generator),
                    "alpha": torch.rand(chains, 3, generator=generator),
                },
                nan=w // 4,
                draws={} if w <= warmup else {k: v[:, warmup * size : w * size] for k, v in every.items()},
                log_densities=None if w <= warmup else density[:, warmup * size : w * size],
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

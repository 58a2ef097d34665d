"""What a look at the draws found, as points of curves: convergence, means with their bands, pooling."""

import math
from collections.abc import Sequence

from hiertorch.dashboard.layout import READABLE, TOP
from hiertorch.dashboard.looks import RHAT, Look
from hiertorch.draws.judgement import Judgement
from hiertorch.monitors.base import safe_tags
from hiertorch.pooling.glance import Glance

METRICS = {
    "metric/elpd_loo": "elpd (LOO)",
    "metric/rhat_max": "worst R-hat",
    "metric/ess_min": "smallest ESS",
    "metric/ess_per_s": "ESS/s",
}
"""Columns of the HParams tab, as many as its table has room for."""


def convergence(look: Look, judged: Judgement | None) -> dict[str, float]:
    """R-hat, effective draws and Monte Carlo errors of a look; of a run that has ended, its judgement's worst values
    count.
    """
    bulk, tail, rhat = look.bulk.min().item(), look.tail.min().item(), look.rhat.max().item()
    if judged is not None and judged.known:
        bulk, tail, rhat = judged.bulk.value, judged.tail.value, judged.rhat.value
    point = {
        "convergence/ess_bulk_min": bulk,
        "convergence/ess_tail_min": tail,
        "convergence/ess_median": look.bulk[: look.shown].median().item(),
        "convergence/mcse_over_sd_max": look.error.max().item(),
        "metric/ess_min": min(bulk, tail),
    }
    if len(look.draws) > 1:  # R-hat compares chains
        every = look.all_rhat
        p95 = every.sort().values[math.ceil(0.95 * len(every)) - 1].item()
        point |= {"convergence/rhat_max": rhat, "metric/rhat_max": rhat, "convergence/rhat_p95": p95}
        for part, value in {"rhat_max": rhat, "rhat_p95": p95, "rhat_limit": RHAT}.items():
            point[READABLE.format(part)] = min(value - 1, TOP)
        bad = judged.above if judged is not None else int((every > RHAT).sum())
        point["convergence/n_bad_rhat"] = float(bad)
    return point


def means(look: Look, paths: Sequence[str]) -> dict[str, float]:
    """Posterior means of the shown parameters, with 5 % and 95 % quantiles, under their paths."""
    columns = {"mean": look.mean, "q05": look.levels[:, 0], "q95": look.levels[:, -1]}
    return {f"{path}/{part}": x[k].item() for k, path in enumerate(paths) for part, x in columns.items()}


def pooling(found: Glance) -> dict[str, float]:
    """Pooling factors and shares of variance, those that are numbers."""
    kinds = {"pooling/{}": found.pooling, "variance/{}/of_y": found.variance, "variance/{}/share": found.share}
    point = {
        path.format(tag): value
        for path, values in kinds.items()
        for tag, value in zip(safe_tags(values), values.values(), strict=True)
    }
    return {tag: value for tag, value in point.items() if math.isfinite(value)}

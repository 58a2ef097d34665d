"""The Custom Scalars tab: which curves stand together.

Every chart asks the server once for every run that is shown, so there are few of them, and what is wanted less often is
closed. Bands come after curves, in categories of their own (TensorBoard shows them in another order).
"""

import re
from collections.abc import Collection, Mapping, Sequence

from hiertorch.dashboard.curves import paths
from hiertorch.dashboard.records import Chart

READABLE, TOP = "convergence/{}_minus_1", 0.05
"""R-hat - 1, cut off above, can be read where it matters: early ones of 2 or 3 would flatten what is between 1.00 and
1.05, and the page's axes show three digits, of which R-hat itself needs one for its 1.
"""

CHARTS = 6  # of bands and of traces
OPEN = ("1", "2", "3")  # the first signs of categories; the others open at a click


def layout(tags: Sequence[str], population: int, bands: Sequence[str]) -> dict[str, dict[str, Chart]]:
    """Category -> title -> the curves or the band of a chart, of tags of parameters, those of the population first, and
    of `bands`, which are shown by quantiles over all chains as well.

    The page merges categories of one title over all runs: parameters are in the titles, so that other models' runs have
    categories of their own.
    """
    shown = ", ".join(tags[:CHARTS])
    found: dict[str, dict[str, Chart]] = {
        "1 Health": {
            "R-hat - 1, up to 0.05: worst, 95 % of all, limit": [
                f"{READABLE.format(part)}$" for part in ("rhat_max", "rhat_p95", "rhat_limit")
            ],
            "effective draws: fewest in bulk and tails, median": [
                "convergence/ess_bulk_min$", "convergence/ess_tail_min$", "convergence/ess_median$",
            ],
            "acceptance by chain": ["sampler/accept_rate$"],
            "log density by chain": ["sampler/log_prob$"],
        },
        f"2 Posterior mean with 5% to 95%: {shown}": {
            tag: (f"{path}/mean", f"{path}/q05", f"{path}/q95")
            for tag, path in zip(tags[:CHARTS], paths("posterior", tags[:CHARTS], population), strict=True)
        },
        "3 Groups": {
            "pooling: 0 none, 1 complete": ["pooling/"],
            "share of the variance of y": ["variance/.*/share$"],
        },
        f"4 Traces by chain: {shown}": {
            tag: [f"{re.escape(path)}$"]
            for tag, path in zip(tags[:CHARTS], paths("trace", tags[:CHARTS], population), strict=True)
        },
        f"5 Median and 5% to 95% of all chains: {', '.join(bands[:CHARTS])}": {
            tag: (f"trace_quantiles/{tag}/q50", f"trace_quantiles/{tag}/q05", f"trace_quantiles/{tag}/q95")
            for tag in bands[:CHARTS]
        },
        "6 Moves": {
            "acceptance by block": ["sampler/block/.*/accept_rate$"],
            "size of random walks by block": ["sampler/block/.*/step_scale$"],
            "jumps: 1 if draws are independent": ["sampler/esjd$"],
        },
        "7 Throughput": {
            "sweeps of all chains a second": ["perf/draws_per_s$"],
            "effective draws a second, of the worst parameter": ["perf/ess_per_s$"],
            "share of the time that this dashboard takes": ["perf/monitor_share$"],
        },
    }  # fmt: skip
    return found


def closed(charts: Collection[str]) -> list[str]:
    """Categories that open at a click."""
    return [category for category in charts if not category.startswith(OPEN)]


def available(
    charts: Mapping[str, Mapping[str, Chart]], written: Collection[str] | None, without: Collection[str] = ()
) -> dict[str, dict[str, Chart]]:
    """The charts of a `layout` for which there is something to show: tags that are written, or, if it isn't known yet
    which these will be, all but those with parts that there won't be.
    """

    def there(pattern: str) -> bool:
        known = written is None or any(re.match(pattern, tag) for tag in written)
        return known and not any(part in pattern for part in without)

    def kept(tags: Chart) -> Chart:
        if isinstance(tags, tuple):
            return tags if there(f"{re.escape(tags[0])}$") else []
        return [pattern for pattern in tags if there(pattern)]

    found = {category: {title: kept(tags) for title, tags in each.items()} for category, each in charts.items()}
    some = {category: {title: tags for title, tags in each.items() if tags} for category, each in found.items()}
    return {category: each for category, each in some.items() if each}

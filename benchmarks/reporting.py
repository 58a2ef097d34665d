"""What the benchmark reports: ratios of hiertorch to the peers, tables, and where it ran."""

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["compare", "machine", "row", "table", "versions"]

COLUMNS = ("run", "case", "chains x draws", "s", "compile s", "min ESS", "at", "ESS/s", "pop. ESS/s", "ESS/draw")
MORE_COLUMNS = ("scales' ESS/draw", "R-hat", "MB")


def compare(reports: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """hiertorch divided by the best run of each peer and by the best of all, and how far posterior means differ."""
    done = [report for report in reports if "failed" not in report]
    ours = next((report for report in done if report["runner"] == "hiertorch"), None)
    others = [report for report in done if report["runner"] != "hiertorch"]
    if ours is None or not others:
        return {}
    runs = {peer: [r for r in others if r["runner"] == peer] for peer in dict.fromkeys(r["runner"] for r in others)}
    return {peer: _ratios(ours, reports) for peer, reports in {**runs, "best peer": others}.items()}


def _ratios(ours: dict[str, Any], runs: list[dict[str, Any]]) -> dict[str, Any]:
    best = max(runs, key=lambda report: report["ess_per_second"])
    keys = ["ess_per_second", "ess_per_second_population", "peak_megabytes"]
    if ours.get("cold"):  # of runs that go on until they have the same number of effective draws
        keys.append("seconds")
    return {
        "of": f"{best['label']}, {best['chains']} x {best['draws']}",
        **{key: ours[key] / best[key] for key in keys},
        "ess_per_second_with_compilation": _rate_with_compilation(ours) / _rate_with_compilation(best),
        **_largest_difference(ours, best),
    }


def _largest_difference(a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
    """max |mean_a - mean_b| / sqrt(mcse_a^2 + mcse_b^2) over parameters: about 3 for 390 of them if both are right."""
    gaps = {
        name: float(np.max(np.abs(np.subtract(mean, b["mean"][name])) / np.hypot(a["mcse"][name], b["mcse"][name])))
        for name, mean in a["mean"].items()
        if name in b["mean"]
    }
    at = max(gaps, key=lambda name: gaps[name])
    return {"largest_difference_of_means_in_mcse": gaps[at], "largest_difference_at": at}


def _rate_with_compilation(report: dict[str, Any]) -> float:
    return report["min_ess"] / (report["seconds"] + report["compile_seconds"])


def machine() -> dict[str, Any]:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = {line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")}
    return {
        "cores": os.cpu_count(),
        "processor": ", ".join(sorted(models)) or platform.processor(),
        "python": platform.python_version(),
        "system": platform.system(),
    }


def versions() -> dict[str, str]:
    found = {}
    for name in ("hiertorch", "torch", "numpyro", "jax", "nutpie", "pymc", "pyro-ppl", "arviz-stats", "numpy"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def table(reports: list[dict[str, Any]], ratios: dict[str, dict[str, Any]]) -> str:
    """One line a run, then where hiertorch's time went, then the ratios."""
    lines = _aligned([(*COLUMNS, *MORE_COLUMNS), *(row(report) for report in reports)])
    parts = [_parts(report) for report in reports if "setup_seconds" in report.get("details", {})]
    if parts:
        heads = ("case", "rows", "groups", "chains", "data s", "setup s", "warm-up s", "sampling s", "us a draw")
        lines += _aligned([(*heads, "ESS a sweep", "s in all", "MB beyond the data"), *parts])
    for peer, values in ratios.items():
        shown = {name: value if isinstance(value, str) else f"{value:.3g}" for name, value in values.items()}
        cells = [f"{name.replace('_', ' ')} {value}" for name, value in shown.items() if name != "of"]
        lines.append(f"hiertorch / {peer} ({values['of']}): " + ", ".join(cells))
    return "\n".join(lines)


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows if i < 2 or len(row) > 3) for i in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip() for row in rows]


def row(report: dict[str, Any]) -> tuple[str, ...]:
    """A run's line in the table."""
    case = "cold" if report.get("cold") else report["case"]
    if "failed" in report:
        return report["label"], case, f"failed: {report['failed']}"
    numbers = ("seconds", "compile_seconds", "min_ess", "min_ess_at", "ess_per_second", "ess_per_second_population")
    cells = [report[key] for key in (*numbers, "ess_per_draw", "scale_ess_per_draw", "worst_rhat", "peak_megabytes")]
    styles = (".2f", ".1f", ".0f", "s", ".4g", ".4g", ".3f", ".3f", ".3f", ".0f")
    shown = (f"{cell:{style}}" for cell, style in zip(cells, styles, strict=True))
    return report["label"], case, f"{report['chains']} x {report['draws']}", *shown


def _parts(report: dict[str, Any]) -> tuple[str, ...]:
    """Where a run of hiertorch spent its time; "in all" contains compilation and making the data."""
    details = report["details"]
    keys = ("data_seconds", "setup_seconds", "warmup_seconds", "sampling_seconds")
    return (
        report["case"],
        f"{report['rows']:,}",
        " x ".join(f"{size:,}" for size in report["groups"].values()),
        str(report["chains"]),
        *(f"{details[key]:.3f}" for key in keys),
        f"{1e6 * details['seconds_per_draw']:.3g}",
        f"{report['ess_per_draw'] / (details.get('thin') or 1):.3f}",
        f"{details['total_seconds'] + details['data_seconds']:.2f}",
        f"{details['sampler_megabytes']:.0f}",
    )

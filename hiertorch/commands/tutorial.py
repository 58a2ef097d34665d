"""`hiertorch tutorial`: four demonstrations on simulated data, where the truth is known.

Rows are y = effect of the group + slope x + noise with x ~ Normal(0, 1), as many, and with the seeds, that each
demonstration says. Priors are the fixed ones that the structures state, `priors="tutorial"`.
"""

import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd

import hiertorch as ht
from hiertorch.commands.program import Words, status
from hiertorch.models import CompletePooling, NoPooling, VaryingIntercepts
from hiertorch.models.simulation import Simulated

CHAINS = 4
WIDTH = 120
FEWEST_EFFECTIVE, HIGHEST_R_HAT, HIGHEST_K = 400, 1.01, 0.7


EXAMPLES = """\
  hiertorch tutorial varying-intercepts    six schools, partially pooled
  hiertorch tutorial model-comparison      are there groups at all?
  hiertorch tutorial diagnostics           can the draws be believed?
  hiertorch tutorial prediction            a group that was never seen
  hiertorch tutorial all
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the demonstrations that are asked for. Exit status: 0, 2 if there is no such one, 130 after Ctrl-C."""
    return status(lambda: shown(_words(argv)))


def _words(argv: Sequence[str] | None) -> Iterable[str]:
    parser = Words("tutorial", "NAME", "Demonstrations on simulated data, where the truth is known.", EXAMPLES)
    parser.add_argument("name", choices=[*DEMONSTRATIONS, "all"], metavar="NAME", help="one of those below")
    name = parser.parse_args(argv).name
    return [*DEMONSTRATIONS] if name == "all" else [name]


def shown(names: Iterable[str]) -> int:
    """Runs demonstrations and prints them."""
    for name in names:
        title, demonstration = DEMONSTRATIONS[name]
        print(f"\n{title}\n{'=' * len(title)}", flush=True)
        print(demonstration())
    return 0


def varying_intercepts() -> str:
    """Estimates of six schools with and without pooling, against the truth."""
    effects = [-1.2, -0.5, 0.2, 0.8, 1.1, 1.5]
    made = simulated(effects, rows=15, slope=0.6, noise=0.8, seed=123)
    partial = fit(VaryingIntercepts("school", ["x"], priors="tutorial"), made.data, warmup=100, draws=500, seed=456)
    alone = fit(NoPooling("school", ["x"], varying=(), priors="tutorial"), made.data, warmup=100, draws=500, seed=456)
    truths: dict[str, tuple[str, Any]] = {
        "beta[x]": ("slope", 0.6),
        "mu_alpha": ("grand mean", np.mean(effects)),
        "sigma_alpha": ("sd of schools", np.std(effects, ddof=1)),
        "sigma_y": ("sd of noise", 0.8),
    }
    truths |= {f"alpha[{s}]": (f"school {s}", e) for s, e in zip(made.data.labels["school"], effects, strict=True)}
    table = against(partial.summary(["beta", "mu_alpha", "sigma_alpha", "sigma_y", "alpha"]), truths)
    own = alone.summary("alpha")["mean"]
    table.insert(2, "not pooled", [f"{own[name]:.2f}" if name in own else "" for name in truths])
    inside = (table["inside"] == "yes").sum()
    centre = float(partial["mu_alpha"].mean())
    estimates = partial.summary("alpha")["mean"]
    kept = float(((estimates - centre) / (own - centre)).median())
    return text(
        table,
        f"{inside} of the {len(table)} intervals hold the truth. With 15 rows each, schools stay close to what their "
        f"own rows say: partial pooling keeps {kept:.0%} of the distance from the grand mean. That mean is uncertain "
        f"(sd {float(partial['mu_alpha'].std()):.2f}), since six schools say little about all schools. The truth of "
        "the grand mean and of the sd of schools are those of the six effects.",
    )


def model_comparison() -> str:
    """Expected log predictive densities of complete pooling and varying intercepts, by row and by group."""
    made = simulated([-0.8, -0.2, 0.0, 0.5], rows=12, slope=0.4, noise=0.6, seed=789)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "grouping 'school' is never read", ht.SamplingWarning)
        pooled = fit(CompletePooling(["x"], priors="tutorial"), made.data, warmup=50, draws=400, seed=111)
    varying = fit(VaryingIntercepts("school", ["x"], priors="tutorial"), made.data, warmup=50, draws=400, seed=222)
    # A Pareto k above 0.7 says that leaving this part out changes the posterior too much for importance weights: such
    # schools are left out by fitting without them.
    candidates = {"complete pooling": pooled, "varying intercepts": varying}
    by_row = ht.compare(candidates)
    by_school = ht.compare({name: one.refit(one.criterion(by="school")) for name, one in candidates.items()})
    tables = {"one row left out": by_row.table, "one school left out": by_school.table}
    table = pd.concat(tables, names=["", "model"]).reset_index()
    table[""] = table[""].where(~table[""].duplicated(), "")
    return text(
        table.set_index("").round(2),
        f"For new rows of these four schools: {by_row.verdict} For rows of a new school: {by_school.verdict}".replace(
            "\n", " "
        ),
    )


def diagnostics() -> str:
    """Mean, sd and Monte Carlo errors of every parameter, with the numbers that say whether chains agree."""
    effects = [-1.0, 0.0, 0.5, 1.2]
    made = simulated(effects, rows=8, slope=0.7, noise=0.5, seed=555)
    posterior = fit(VaryingIntercepts("school", ["x"], priors="tutorial"), made.data, warmup=100, draws=400, seed=666)
    summary = posterior.summary()
    truths: dict[str, tuple[str, Any]] = {"beta[x]": ("slope", 0.7), "sigma_y": ("sd of noise", 0.5)}
    truths |= {f"alpha[{s}]": (f"school {s}", e) for s, e in zip(made.data.labels["school"], effects, strict=True)}
    truths |= {"mu_alpha": ("grand mean", np.mean(effects)), "sigma_alpha": ("sd of schools", np.std(effects, ddof=1))}
    table = against(summary, truths)
    numbers = summary.loc[list(truths)]
    table["MCSE"] = [f"{x:.4f}" for x in numbers["mcse_mean"]]
    table["bulk ESS"] = [f"{x:.0f}" for x in numbers["ess_bulk"]]
    table["tail ESS"] = [f"{x:.0f}" for x in numbers["ess_tail"]]
    table["R-hat"] = [f"{x:.3f}" for x in numbers["r_hat"]]
    slope, worst = numbers.loc["beta[x]"], posterior.diagnostics()["worst"]
    total = posterior.chains * posterior.n_draws
    believed = worst["r_hat"] <= HIGHEST_R_HAT and min(worst["ess_bulk"], worst["ess_tail"]) >= FEWEST_EFFECTIVE
    return text(
        table,
        f"The slope is {slope['mean']:.3f} with variance {slope['sd'] ** 2:.4f}; its Monte Carlo error is "
        f"{slope['mcse_mean'] / slope['sd']:.0%} of its sd. Chains {'agree' if believed else 'DO NOT AGREE'}: the "
        f"worst R-hat is {worst['r_hat']:.3f} (at most {HIGHEST_R_HAT} is wanted) and the smallest ESS "
        f"{min(worst['ess_bulk'], worst['ess_tail']):.0f} of {total} draws (at least {FEWEST_EFFECTIVE}). "
        + " ".join(posterior.warnings()),
    )


def prediction() -> str:
    """Predictions at x = 2 for the three groups that were fitted and for one that was not."""
    effects, slope, noise, x = [-0.5, 0.2, 0.8], 0.5, 0.4, 2.0
    made = simulated(effects, rows=10, slope=slope, noise=noise, seed=999)
    posterior = fit(VaryingIntercepts("school", ["x"], priors="tutorial"), made.data, warmup=50, draws=300, seed=1010)
    schools = [*made.data.labels["school"], "new"]
    asked = pd.DataFrame({"school": schools, "x": x}, index=[f"school {school}" for school in schools])
    table = pd.DataFrame({"truth": [*(f"{effect + slope * x:.2f}" for effect in effects), ""]}, index=asked.index)
    widths = {}
    kinds: tuple[tuple[Literal["mean", "response"], str], ...] = (("mean", "mean of y"), ("response", "one y"))
    for kind, title in kinds:
        found = posterior.predict(asked, kind=kind, seed=1010).summary
        low, high = interval(found)
        table[title], table[f"{title}: sd"] = (found[name].map("{:.2f}".format) for name in ("mean", "sd"))
        table[f"{title}: 89% interval"] = [f"{float(low[row]):.2f} to {float(high[row]):.2f}" for row in asked.index]
        widths[kind] = (high - low).to_numpy()
    point = float(posterior["mu_alpha"].mean() + x * posterior["beta"].mean())
    times = widths["mean"][-1] / widths["mean"][:-1].mean()
    return text(
        table,
        f"The plug-in point for a new school, grand mean + slope x {x:g}, is {point:.2f}, which hides how uncertain "
        f"it is: the interval of a new school's mean is {times:.0f} times as wide as that of a school that was fitted, "
        "since its effect is unknown and three schools say little about how much schools differ.",
    )


def simulated(effects: list[float], rows: int, slope: float, noise: float, seed: int) -> Simulated:
    """Rows of schools s1, s2, ..."""
    return ht.simulate_grouped({"school": len(effects)}, rows, effects=effects, slope=slope, noise=noise, seed=seed)


def fit(model: ht.Model, data: ht.Data, **options: Any) -> ht.Posterior:
    """The posterior of a few chains."""
    posterior = ht.sample(model, data, chains=CHAINS, progress=False, **options)
    if posterior.interrupted:
        raise KeyboardInterrupt
    return posterior


def against(summary: pd.DataFrame, truths: dict[str, tuple[str, Any]]) -> pd.DataFrame:
    """Mean, sd and interval of parameters beside their truth."""
    low, high = interval(summary)
    found = {}
    for name, (title, truth) in truths.items():
        found[title] = {
            "parameter": name,
            "truth": f"{truth:.2f}",
            "mean": f"{summary['mean'][name]:.2f}",
            "sd": f"{summary['sd'][name]:.2f}",
            "89% interval": f"{float(low[name]):.2f} to {float(high[name]):.2f}",
            "inside": "yes" if low[name] <= truth <= high[name] else "no",
        }
    return pd.DataFrame.from_dict(found, orient="index")


def interval(summary: pd.DataFrame) -> tuple[pd.Series, pd.Series]:
    """Its two ends."""
    return summary["eti89_lb"], summary["eti89_ub"]


def text(table: pd.DataFrame, reading: str) -> str:
    """A table and what it says, in lines of at most WIDTH."""
    words, lines = reading.split(), [""]
    for word in words:
        if len(lines[-1]) + len(word) >= WIDTH:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join([table.rename_axis(None).to_string(line_width=WIDTH), "", *lines])


DEMONSTRATIONS: dict[str, tuple[str, Callable[[], str]]] = {
    "varying-intercepts": ("Varying intercepts: 6 schools of 15 rows", varying_intercepts),
    "model-comparison": ("Model comparison: 4 schools of 12 rows", model_comparison),
    "diagnostics": ("Diagnostics: 4 schools of 8 rows", diagnostics),
    "prediction": ("Prediction at x = 2: 3 schools of 10 rows, and a new one", prediction),
}

"""The Text tab: settings, model and plan, what is shown, the posterior as a table, and a verdict in sentences."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from hiertorch.dashboard.curves import CHAINS
from hiertorch.dashboard.looks import ESS, RHAT, WORST, Look
from hiertorch.dashboard.snapshots import Snapshot
from hiertorch.draws.judgement import Judgement
from hiertorch.monitors.base import RunInfo, Watch

if TYPE_CHECKING:
    from hiertorch.dashboard.closing import Closing

NAMED = 5  # parameters that a verdict names
STUCK = 0.05  # an acceptance rate below this deserves a word
SIGN = "\N{WARNING SIGN}"


def config(run: RunInfo) -> str:
    """The settings, once to read and once to copy: a JSON value is a YAML value."""
    settings = {key: value for key, value in run.settings.items() if key != "findings"}  # they stand with the model
    values = {key: json.dumps(value, default=str, ensure_ascii=False) for key, value in settings.items()}
    cells = {key: cell(_plain(value)) for key, value in settings.items()}
    table = ["| setting | value |", "|---|---|", *(f"| {key} | {text} |" for key, text in cells.items())]
    return "\n".join([*table, "", "```yaml", *(f"{key}: {value}" for key, value in values.items()), "```"])


def model_card(run: RunInfo) -> str:
    """The model and its plan as printed, and what the data lack."""
    parts = {f"## {run.model}": run.model_text}
    if run.findings:
        parts["## Data"] = "\n".join(run.findings)
    parts["## Plan"] = run.plan_text
    return "\n\n".join(f"{title}\n\n```\n{text.strip()}\n```" for title, text in parts.items())


def contents(run: RunInfo, traces: Watch, chains: int, points: int, share: float) -> str:
    """What is shown and what is not."""
    shown = f"all {chains} chains" if chains <= CHAINS else f"chains 0 to {CHAINS - 1} of {chains}"
    judged = [
        f"**Convergence**: every stored parameter is screened by the classical split R-hat; those of the traces and "
        f"the {WORST} worst of the others are looked at closely (rank-normalised R-hat, effective draws), as often as "
        f"{share:.1%} of the run's time allows. Where there are many draws, R-hat is that of evenly thinned ones, and "
        "effective draws are counted in some of the chains. The last look, at the end, is at all draws of all "
        "parameters, as in posterior.summary().",
        "**Posterior** (`posterior/`): mean and quantiles of the draws so far; histograms in the Distributions tab.",
        "**Pooling** (`pooling/`): 0 is no pooling, 1 complete pooling (Gelman & Pardoe 2006); `variance/`: of y, by "
        "level, and what share each has.",
    ]
    lines = [
        f"**Traces** (`trace/`): stored draws, in warm-up the last sweep of a window, of {shown}; {traces.text}. "
        "Those of effects of groups are in `trace_groups/`, and `posterior_groups/`.",
        *(judged if run.alike else ()),
        f"**Steps** are sweeps, warm-up included. A tag has at most {points} points. A curve's ends are cut off unless "
        "*Ignore outliers in chart scaling* is off.",
    ]
    if chains > CHAINS:
        lines.insert(1, f"**Quantiles** (`trace_quantiles/`): 5%, 50% and 95% over all {chains} chains at a sweep.")
    return "\n".join(f"- {line}" for line in lines)


def verdict(
    status: str,
    run: RunInfo,
    last: Snapshot | None,
    seconds: float,
    look: Look | None,
    acceptance: Mapping[str, Sequence[float]],
    judgement: Judgement | None = None,
) -> Iterator[str]:
    """Sentences, the bad ones with a warning sign, on a run that is "running" or has ended: where it stands (None
    before the first window), the seconds so far, the last look, acceptance rates of each block after warm-up, and at
    its end the judgement.
    """
    if last is None:
        yield f"**{status.capitalize()}** before the first window of {run.sweeps} sweeps."
        return
    chains, where = len(last.log_density), "at" if status == "running" else "after"
    yield (
        f"**{status.capitalize()}** {where} {last.sweep} of {last.foreseen or run.sweeps} sweeps of {chains} chains in "
        f"{seconds:.1f} s, with {last.drawn} draws a chain."
    )
    if not run.alike:
        yield "Each chain has data of its own: no posterior is that of all chains, so their convergence isn't shown."
    elif look is None:
        yield "Convergence is unknown so far."
    else:
        yield from _judged(look, chains, judgement)
    if acceptance:
        means = {block: sum(rates) / len(rates) for block, rates in acceptance.items()}
        yield "Acceptance in sampling: " + ", ".join(f"{block} {mean:.2f}" for block, mean in means.items()) + "."
        if stuck := [block for block, mean in means.items() if mean < STUCK]:
            yield f"{SIGN} Less than {STUCK:.0%} of the proposals were accepted in {', '.join(stuck)}."
    beside = [] if judgement is None else judgement.beside
    yield from (f"{SIGN} {sentence}" for sentence in beside)
    if not any("NaN" in sentence for sentence in beside):
        yield f"{SIGN} {last.nan} log densities were NaN (rejected)." if last.nan else "No log density was NaN."


def _judged(look: Look, chains: int, judgement: Judgement | None) -> Iterator[str]:
    """From a run that has ended the same numbers as in summary, warnings and bar."""
    every = look.all_rhat
    count, number = len(every), int((every > RHAT).sum())
    some = "" if look.seen == look.of else f" From {look.seen:,} of {look.of:,} draws."
    bulk, tail, high = (_at(look, values, least) for values, least in ((look.bulk, 1), (look.tail, 1), (look.rhat, -1)))
    if judgement is not None and judgement.known:
        count, number = judgement.parameters, judgement.above
        some = f" From a look at {judgement.part}." if judgement.part else ""
        bulk, tail, high = judgement.bulk, judgement.tail, judgement.rhat
    bad = [k for k in look.rhat.argsort(descending=True, stable=True).tolist() if look.rhat[k] > RHAT]
    if chains == 1:
        yield "R-hat is unknown: it compares chains, and there is one."
    elif bad:
        named = ", ".join(f"{look.names[k]} {_rhat(look.rhat[k].item())}" for k in bad[:NAMED])
        named += ", ..." * (number > NAMED)
        yield f"{SIGN} R-hat is above {RHAT} for {number} of {count} parameters ({named}): run longer.{some}"
    else:
        yield f"R-hat is at most {RHAT} for each of {count} parameters (worst {_rhat(high[0])}, {high[1]}).{some}"
    least = f"{bulk[0]:,.0f} effective draws in the bulk ({bulk[1]}) and {tail[0]:,.0f} in the tails ({tail[1]})"
    few = min(bulk[0], tail[0]) < ESS
    yield f"{SIGN} At worst {least}, where {ESS} are wanted: run longer.{some}" if few else f"At least {least}.{some}"


def _at(look: Look, values: Tensor, sign: int) -> tuple[float, str]:
    """The least of some values (the highest for a sign of -1), and whose it is."""
    k = int((sign * values).nan_to_num(nan=math.inf).argmin())
    return values[k].item(), look.names[k]


def summary(look: Look, judgement: Judgement | None = None) -> str:
    """The shown parameters as a table, those not to be trusted with a sign, and a verdict below."""
    head = "parameter | mean | sd | 5% | 95% | MCSE | R-hat | bulk ESS | tail ESS"
    lines = [f"| {head} | |", "|" + "---|" * 10]
    for k in range(look.shown):
        digits = _digits(look.sd[k].item())
        values = (look.mean[k], look.sd[k], look.levels[k, 0], look.levels[k, -1])
        cells = [cell(look.names[k]), *(f"{round(value.item(), digits) + 0.0:.{digits}f}" for value in values)]
        cells += [f"{(look.error[k] * look.sd[k]).item():.2g}", f"{_rhat(look.rhat[k].item())}"]
        cells += [f"{look.bulk[k]:,.0f}", f"{look.tail[k]:,.0f}"]
        good = not look.rhat[k] > RHAT and min(look.bulk[k], look.tail[k]) >= ESS
        lines.append(f"| {' | '.join(cells)} | {'' if good else SIGN} |")
    some = "" if look.seen == look.of else f", from {look.seen:,} of them"
    judged = (f"- {line}" for line in _judged(look, len(look.draws), judgement))
    return "\n".join([*lines, "", f"- {look.of:,} draws after warm-up{some}.", *judged])


def worst(look: Look, plates: Mapping[str, str | None]) -> str | None:
    """The groups' effects whose chains agree least; None if there are no groups."""
    order = [k for k in look.order if plates.get(look.at[k][0]) is not None][:WORST]
    if not order:
        return None
    rows = [
        f"| {cell(look.names[k])} | {_rhat(look.rhat[k].item())} | {look.bulk[k]:,.0f} | {look.mean[k]:.3g} | "
        f"{look.sd[k]:.2g} | {SIGN if look.rhat[k] > RHAT else ''} |"
        for k in order
    ]
    return "\n".join(["| group's effect | R-hat | bulk ESS | mean | sd | |", "|---|---|---|---|---|---|", *rows])


def prediction(found: "Closing") -> str:
    """How well new rows are predicted, and what was left out."""
    lines = [*_fits(found), *found.notes]
    if found.elpd is not None and found.k is not None:
        fine = [f"Pareto k is at most {found.limit:.2f} for each of {len(found.k)} rows."]
        lines[:0] = [
            f"elpd (LOO by row) {found.elpd:.1f} (se {found.se:.1f}), p {found.p:.1f}; -2 elpd {-2 * found.elpd:.1f}.",
            *(_above(found, "posterior.criterion()") or fine),
        ]
    return "\n".join(f"- {line}" for line in lines)


def _fits(found: "Closing") -> list[str]:
    """Whether the rows are like data that the model makes."""
    if found.misfits is not None and not found.misfits:
        return [f"Statistics of {len(found.y):,} rows are like those of data simulated from the fit."]
    return [f"{SIGN} {sentence}" for sentence in found.misfits or ()]


def _above(found: "Closing", more: str) -> list[str]:
    """Whether LOO can't be trusted for some rows, and where there is more on it."""
    bad = 0 if found.k is None else int((found.k > found.limit).sum())
    rows = f"{bad} of {len(found.labels)} rows"
    return [f"{SIGN} Pareto k is above {found.limit:.2f} for {rows}: see {more}."] if bad else []


def ending(found: "Closing | None", problems: Mapping[str, Exception], unstored: Sequence[str]) -> Iterator[str]:
    """Of a finished run: does the model fit (None if nobody has looked), and what was not looked at: parts of the
    dashboard that failed, and effects whose draws were not stored.
    """
    if found is None:
        yield "Whether the model fits its rows was not looked at."
    else:
        yield from [*_fits(found), *_above(found, "2_summary"), *found.notes]
    if unstored:
        yield f"The draws of {', '.join(unstored)} were not stored, and nobody has looked how they converged."
    yield from (f"{SIGN} The dashboard has no {part} ({type(x).__name__}: {x})." for part, x in problems.items())


def _plain(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {one}" for name, one in value.items())
    return value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)


def cell(text: str) -> str:
    """As it stands in a table of Markdown."""
    return text.replace("|", "\\|")


def _rhat(value: float) -> str:
    if math.isnan(value):  # it compares chains, and there is one
        return "-"
    return f"{value:.3f}" if value < 10 else f"{value:.3g}"


def _digits(sd: float) -> int:
    """Decimals that show two digits of an sd."""
    return min(9, max(0, 1 - math.floor(math.log10(sd)))) if 0 < sd < math.inf else 3

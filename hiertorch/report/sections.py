"""What each section of a report says. A section that can't be made says why instead."""

import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial

import numpy as np
import pandas as pd

from hiertorch.comparison.criteria import criterion
from hiertorch.criticism.predictive import predictive_check
from hiertorch.draws import diagnostics
from hiertorch.draws.fit import Fit
from hiertorch.draws.labelled import summary
from hiertorch.draws.summaries import LIMITS
from hiertorch.errors import DataError, HiertorchError
from hiertorch.pooling.factors import Pooling, pooling
from hiertorch.report import figures
from hiertorch.report.mixing import convergence, traces
from hiertorch.report.page import Section, escape, items, note, paragraph, picture, preformatted, table, term_list
from hiertorch.wording import many

EFFECTS, ESTIMATES = 6, 60
"""Effects with a figure of their groups, and population-level parameters in the table."""

LOO_DRAWS = 2_000
"""Of all chains together, from which the criteria are computed; more add little and take their time."""

TEXTS = ("model", "model_text", "plan_text", "priors", "findings", "seconds", "versions")
"""What `Fit.run` holds that other sections show, or that is shown in another form."""

PERCENT = {"eti89_lb": "5.5 %", "eti89_ub": "94.5 %", "icc_eti89_lb": "5.5 %", "icc_eti89_ub": "94.5 %"}
"""Columns of tables that are headed by what share of draws lies below."""

Concerns = list[tuple[str, str]]
"""What to look at, each with the name of the section that has more."""

Left = list[tuple[str, str]]
"""What was not looked at, each with the reason."""


def every(posterior: Fit) -> tuple[list[Section], Concerns, Left]:
    """All sections in order, what they found that a reader should look at, and what they could not look at."""
    concerns: Concerns = []
    left: Left = []
    pooled = cache(partial(pooling, posterior))
    mixing = pd.concat([posterior.table(name, columns) for name, columns in posterior.columns.items()])[[*LIMITS]]
    makers: list[tuple[str, str, Callable[[], Iterator[str]]]] = [
        ("model", "Model", lambda: _model(posterior)),
        ("data", "Data", lambda: _data(posterior, concerns, left)),
        ("estimates", "Estimates", lambda: _estimates(posterior)),
        ("convergence", "Convergence", lambda: convergence(posterior, mixing)),
        ("traces", "Traces and ranks", lambda: traces(posterior, mixing)),
        ("groups", "Groups", lambda: _groups(pooled())),
        ("pooling", "Pooling and variance", lambda: _pooling(pooled(), concerns)),
        ("predictive", "Predictive checks", lambda: _predictive(posterior, concerns)),
        ("criteria", "Criteria", lambda: _criteria(posterior, concerns, left)),
        ("run", "Run", lambda: _run(posterior)),
    ]
    sections = [Section(name, title, _parts(title, make, left)) for name, title, make in makers]
    if posterior.unstored_plates:
        left.append((f"convergence of {', '.join(posterior.unstored_plates)}", "their draws were not stored"))
    return sections, concerns, left


def _parts(title: str, make: Callable[[], Iterator[str]], left: Left) -> list[str]:
    """The parts of a section, up to what it can't make, which is left out and said so."""
    parts: list[str] = []
    try:
        parts.extend(make())
    except Exception as error:  # a report of what is left is worth more than none
        parts.append(note(f"Left out: {_reason(error)}"))
        left.append((title, _reason(error)))
    return parts


def _reason(error: Exception) -> str:
    known = isinstance(error, HiertorchError | ImportError)
    return str(error) if known else f"it failed with {type(error).__name__}: {error}"


def verdict(posterior: Fit, concerns: Concerns, left: Sequence[tuple[str, str]] = ()) -> str:
    """Whether the run converged, what to look at, and what nobody has looked at."""
    found, sentences = posterior.diagnostics(), posterior.warnings()
    lost = any("never moved" in s or "not finite" in s for s in sentences)
    unknown = posterior.n_draws < diagnostics.MIN_DRAWS or bool(np.isnan(float(str(found.loc["r_hat", "worst"]))))
    if unknown or lost or found.loc["r_hat", "beyond"]:
        kind, head = "bad", "Not converged: don't use these numbers yet."
    elif sentences:
        kind, head = "look", "Converged as far as can be seen, but not everything is as it should be."
    else:
        kind, head = "good", "Converged: all chains tell the same."
    total = sum(math.prod(x.shape[2:]) for x in posterior.draws.values())
    numbers = f"{posterior.chains} chains of {posterior.n_draws:,} draws, {total:,} parameters"
    if not unknown:
        r_hat, bulk, tail = (found.loc[row] for row in LIMITS)
        numbers += (
            f"; highest R-hat {r_hat['worst']:.3f} ({r_hat['parameter']}), lowest bulk ESS {bulk['worst']:,.0f} "
            f"({bulk['parameter']}), lowest tail ESS {tail['worst']:,.0f} ({tail['parameter']})"
        )
    parts = [f"<p><strong>{escape(head)}</strong></p>", paragraph(numbers + ".")]
    if sentences:
        parts.append(items(sentences))
    if concerns:
        links = "".join(f'<li>{escape(text)} <a href="#{name}">more</a></li>' for text, name in concerns)
        parts.append(f"<p>To look at:</p><ul>{links}</ul>")
    elif kind == "good" and not left:
        parts.append(paragraph("The checks below found nothing that asks for attention."))
    if left:
        why = {reason: [what for what, other in left if other == reason] for _, reason in left}
        parts.append(paragraph("Not looked at, so that this says nothing of it:"))
        parts.append(items(f"{', '.join(dict.fromkeys(what))}: {reason}" for reason, what in why.items()))
    return f'<div class="verdict {kind}">{"".join(parts)}</div>'


def _model(posterior: Fit) -> Iterator[str]:
    text = str(posterior.run.get("model_text") or "The text of the model was not kept with these draws.")
    about, found, printed = text.partition(f"\n\n{posterior.run.get('model')}(")
    if found:
        yield preformatted(printed and found.strip() + printed)
        yield "<h3>About it</h3>"
    yield preformatted(inspect.cleandoc(about).partition("\n\nArgs:")[0])  # how to call it is no news to a reader
    if plan := posterior.run.get("plan_text"):
        yield "<h3>How it was sampled</h3>"
        yield preformatted(str(plan))


def _data(posterior: Fit, concerns: Concerns, left: Left) -> Iterator[str]:
    try:
        yield preformatted(repr(posterior.fitted.data))
    except DataError as error:
        sizes = [f"{plate}: {len(labels):,} groups" for plate, labels in posterior.labels.items()]
        yield note(f"The rows are not at hand: {error}")
        left.append(("Data", str(error)))
        yield items(sizes) if sizes else paragraph("The model has no groupings.")
    yield "<h3>What the checks of the data said</h3>"
    findings = posterior.run.get("findings")
    if findings is None:
        yield paragraph("Nothing was kept with these draws.")
        left.append(("what the checks of the data said", "nothing was kept with these draws."))
    elif not findings:
        yield paragraph("Nothing: the data have what the model asks for.")
    else:
        yield items(map(str, findings))
        grave = [str(text) for text in findings if str(text).startswith(("warning", "error"))]
        if grave:
            concerns.append((f"The checks of the data have {many(len(grave), 'warning')}.", "data"))


def _estimates(posterior: Fit) -> Iterator[str]:
    names = [name for name in posterior if posterior.plates[name] is None]
    if not names:
        yield paragraph("The model has no population-level latents; those of groups are below.")
        return
    frame = summary(posterior, names, kind="stats").rename(columns=PERCENT)
    yield paragraph("Population-level latents: posterior mean, standard deviation and the ends of the 89 % interval.")
    yield table(frame.head(ESTIMATES))
    if len(frame) > ESTIMATES:
        yield paragraph(f"And {len(frame) - ESTIMATES} more: posterior.summary() has all.")


def _groups(pooled: Pooling) -> Iterator[str]:
    if pooled.groups.empty:
        yield paragraph("No latent on the real line varies over groups.")
        return
    yield paragraph(
        "Each group by its own rows alone (maximum likelihood given what all groups share) and as the model has it, "
        "drawn towards the others: the more, the fewer rows it has. Lines are 1.6 standard errors or standard "
        "deviations either way (89 %); in brackets stands the number of rows. A group whose own rows tell nothing has "
        "no circle."
    )
    levels = pooled.groups["level"].unique()
    for level in levels[:EFFECTS]:
        groups = pooled.groups[pooled.groups["level"] == level]
        plate = str(groups["plate"].iloc[0])
        some = ""
        if len(groups) > figures.MOST:
            ends = f"{figures.ENDS} groups that are pooled least (above) and {figures.ENDS} that are pooled most"
            some = f" {ends}, of {len(groups):,}."
        yield picture(
            figures.shrinkage(groups, str(level), float(groups["mean"].mean())),
            f"Shrinkage of {level} by {plate}",
            f"{level} by {plate}.{some}",
        )
    if len(levels) > EFFECTS:
        yield paragraph(f"And {len(levels) - EFFECTS} more effects: posterior.pooling().groups has all.")


def _pooling(pooled: Pooling, concerns: Concerns) -> Iterator[str]:
    for message in pooled.messages:
        yield note(message)
        if " may be 0: " in message:
            concerns.append((message.split(":")[0] + ".", "pooling"))
    yield paragraph(
        "Pooling is 0 where groups are estimated by themselves and 1 where they are all drawn to what their level's "
        "regression says; r2 is the share of variance between units that this regression explains (Gelman & Pardoe "
        "2006); shrinkage is the mean over groups of the share B_j by which each is drawn."
    )
    yield table(pooled.table.rename_axis("level"))
    if not pooled.variance.empty:
        yield paragraph(
            "Shares of the variance of y, given the predictors at their means. The intraclass correlation (icc) is "
            "that of two rows of one group, with its 89 % interval."
        )
        yield table(pooled.variance.filter(regex="^(?!share_)").rename(columns=PERCENT))


def _predictive(posterior: Fit, concerns: Concerns) -> Iterator[str]:
    check = predictive_check(posterior)
    yield paragraph(
        "Statistics of the data beside those of data simulated from the fitted model; p is the share of simulated data "
        "sets with a larger one. Extreme p say what the model does not reproduce."
    )
    frame = check.shown.rename(columns={"q05": "5 %", "q95": "95 %", "p_error": "error of p", "extreme": " "})
    yield table(frame, beyond=pd.DataFrame({c: check.table["extreme"] & (c in ("p", " ")) for c in frame}))
    yield items(check.warnings) if check.warnings else paragraph("No statistic is extreme.")
    if check.warnings:
        concerns.append((f"{many(len(check.warnings), 'predictive check')} of the data found a misfit.", "predictive"))
    data = check.replications.data
    plots = [("density", data.name, "Data and simulated data")]
    plots += [("groups", f"Means of {plate}", f"Means of {plate}") for plate in data.plates[:1]]
    for kind, what, alt in plots:
        yield picture(figures.png(check.plot(kind)), alt, f"{what}: the data, and data of the model.")


def _criteria(posterior: Fit, concerns: Concerns, left: Left) -> Iterator[str]:
    fitted = posterior.fitted
    plates = {latent.plate for latent in fitted.model.latents.values() if latent.plate is not None}
    lines, sentences = {}, []
    for by in ["row", *(plate for plate in fitted.data.plates if plate in plates)]:
        inner = by != "row" and any(p != by and fitted.data.nests(p, by) for p in plates)
        if inner and posterior.unstored is None:
            sentences.append(
                f"Leaving out groups of {by} was left to posterior.criterion('loo', by={by!r}): the effects of several "
                "levels have to be integrated out numerically, which may take minutes."
            )
            left.append((f"prediction of new groups of {by}", "it may take minutes; posterior.criterion() does it."))
            continue
        what = "rows" if by == "row" else f"groups of {by}"
        try:
            found = criterion(posterior, "loo", by, draws=LOO_DRAWS)
        except Exception as error:
            sentences.append(f"Leaving out {what}: {_reason(error)}")
            left.append((f"prediction of {what} that were left out", _reason(error)))
            continue
        line: dict[str, object] = {"elpd": found.elpd, "se": found.se, "p": found.p, "left out": len(found.pointwise)}
        k, limit = found.pointwise["pareto_k"], found.details["good_k"]
        if k.notna().any():
            line |= {"worst k": float(k.max()), "at": str(k.idxmax()), "k too high": int((k > limit).sum())}
        lines[f"LOO, {what}"] = line
        yield paragraph(f"Leaving out {what}: {found.question}")
        sentences += found.warnings
        if found.warnings:
            concerns.append((f"LOO by {by}: {found.warnings[0].split(': ')[0].rstrip('.')}.", "criteria"))
    if lines:
        yield paragraph(
            "Expected log predictive density of what was left out (elpd; higher is better, and only differences "
            "between models of the same data mean anything), its standard error, and the effective number of "
            "parameters p."
        )
        frame = pd.DataFrame.from_dict(lines, orient="index").rename_axis("criterion")
        yield table(frame.assign(at=frame["at"].fillna("-")) if "at" in frame else frame)
    if sentences:
        yield items(sentences)


def _run(posterior: Fit) -> Iterator[str]:
    run = posterior.run
    pairs = [(key, _flat(value)) for key, value in run.items() if key not in TEXTS]
    if isinstance(run.get("seconds"), Mapping):
        pairs.append(("seconds", ", ".join(f"{name} {float(x):.2f}" for name, x in run["seconds"].items())))
    if isinstance(run.get("versions"), Mapping):
        pairs.append(("versions", _flat(run["versions"])))
    yield term_list(pairs)
    rates = {
        block: {"mean": float(x.mean()), "lowest": float(x.min()), "highest": float(x.max())}
        for block, x in posterior.stats.acceptance.items()
    }
    if rates:
        yield "<h3>Acceptance rates after warm-up</h3>"
        over = "of chains, or of chains and groups"
        yield table(pd.DataFrame.from_dict(rates, orient="index").rename_axis("block"), f"Mean and ends {over}")


def _flat(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_flat(x)}" for key, x in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_flat, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)

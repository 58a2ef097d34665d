"""Distributions of rows in the little language of exported models, by their parameters as text.

Where a distribution is cut off, its mean between two ends has a closed form: by parts, or as the mean of all times what
the distribution with a density in proportion to y p(y) has between them (`hiertorch.model.within` says the same of
tensors).
"""

from collections.abc import Callable
from dataclasses import replace

from hiertorch.families.portable import END, Portable, Tails, column


def _named(**parameters: str) -> tuple[tuple[str, str], ...]:
    return tuple(parameters.items())


# Continuous rows


def _density(z: str) -> str:
    return f"(exp(-0.5 * square({z})) / sqrt(2.0 * pi))"


def _normal_tails(z: Callable[[str], str]) -> tuple[END, END]:
    return (lambda y: f"ndtr({z(y)})"), (lambda y: f"ndtr(-({z(y)}))")


def normal(loc: str, scale: str) -> Portable:
    """Normal(loc, scale)."""

    def z(y: str) -> str:
        return f"(({y} - loc) / scale)"

    def mean(low: str, high: str, mass: str) -> str:
        return f"loc - scale * ({_density(z(high))} - {_density(z(low))}) / {mass}"

    tails = Tails(*_normal_tails(z), "real", mean)
    return Portable(_named(loc=loc, scale=scale), "loc", "loc + scale * normal()", tails=tails)


def lognormal(loc: str, scale: str) -> Portable:
    """LogNormal(loc, scale); between two ends its mean is that of all, times what a biased one has between."""

    def z(y: str, shift: str = "") -> str:
        return f"((log({y}) - loc{shift}) / scale)"

    biased = Tails(*_normal_tails(lambda y: z(y, " - square(scale)")), "positive")
    whole = "exp(loc + 0.5 * square(scale))"
    tails = Tails(*_normal_tails(z), "positive", lambda low, high, mass: f"{whole} * {biased.mass(low, high)} / {mass}")
    return Portable(_named(loc=loc, scale=scale), whole, "exp(loc + scale * normal())", tails=tails)


def student_t(df: str, loc: str, scale: str) -> Portable:
    """StudentT(df, loc, scale), whose middle stands for a mean that need not be there."""

    def z(y: str) -> str:
        return f"(({y} - loc) / scale)"

    constant = "exp(gammaln(0.5 * (df + 1.0)) - gammaln(0.5 * df)) / sqrt(df * pi)"

    def end(y: str) -> str:
        """(df + z^2) p(z), 0 of infinite ends."""
        inside = f"(df * power(1.0 + square({z(y)}) / df, 0.5 * (1.0 - df)))"
        return f"where(isfinite({y}), {constant} * {inside}, 0.0 / (df > 1.0))"

    def mean(low: str, high: str, mass: str) -> str:
        return f"loc - scale * ({end(high)} - {end(low)}) / ((df - 1.0) * {mass})"

    tails = Tails(lambda y: f"stdtr(df, {z(y)})", lambda y: f"stdtr(df, -{z(y)})", "real", mean)
    return Portable(_named(df=df, loc=loc, scale=scale), "loc", "loc + scale * student_t(df)", tails=tails)


def skew_normal(loc: str, scale: str, skew: str) -> Portable:
    """SkewNormal of mean loc and sd scale."""
    lets = _named(
        skew=skew,
        delta="skew / sqrt(1.0 + square(skew))",
        width=f"({scale}) / sqrt(1.0 - square(delta) * (2.0 / pi))",
        start=f"({loc}) - width * delta * sqrt(2.0 / pi)",
        steep="sqrt(1.0 + square(skew))",
    )

    def z(y: str) -> str:
        return f"(({y} - start) / width)"

    def mean(low: str, high: str, mass: str) -> str:
        ends = [f"2.0 * {_density(z(y))} * ndtr(skew * {z(y)})" for y in (high, low)]
        ends = [f"where(isfinite({y}), {one}, 0.0)" for y, one in zip((high, low), ends, strict=True)]
        part = f"(ndtr(steep * {z(high)}) - ndtr(steep * {z(low)}))"
        return f"start + width * (2.0 * delta / sqrt(2.0 * pi) * {part} - ({ends[0]} - {ends[1]})) / {mass}"

    tails = Tails(
        lambda y: f"(ndtr({z(y)}) - 2.0 * owens_t({z(y)}, skew))",
        lambda y: f"(ndtr(-{z(y)}) + 2.0 * owens_t({z(y)}, skew))",
        "real",
        mean,
    )
    drawn = "start + width * (delta * abs(normal()) + sqrt(1.0 - square(delta)) * normal())"
    return Portable(lets, "start + width * delta * sqrt(2.0 / pi)", drawn, tails=tails)


def asymmetric_laplace(loc: str, scale: str, quantile: str) -> Portable:
    """AsymmetricLaplace, of which loc is a quantile."""

    def z(y: str) -> str:
        return f"(({y} - loc) / scale)"

    left, right = "quantile * exp((1.0 - quantile) * {})", "(1.0 - quantile) * exp(-quantile * {})"
    tails = Tails(
        lambda y: f"where({z(y)} < 0.0, {left.format(z(y))}, 1.0 - {right.format(z(y))})",
        lambda y: f"where({z(y)} < 0.0, 1.0 - {left.format(z(y))}, {right.format(z(y))})",
        "real",
    )
    mean = "loc + scale * (1.0 - 2.0 * quantile) / (quantile * (1.0 - quantile))"
    drawn = "loc + scale * (exponential() / quantile - exponential() / (1.0 - quantile))"
    return Portable(_named(loc=loc, scale=scale, quantile=quantile), mean, drawn, tails=tails)


POSITIVE = "isfinite(centre) * (centre > 0.0)"
"""Of means of positive rows, which some links do not keep above 0."""


def _gamma_tails(shape: str, of: END) -> Tails:
    return Tails(lambda y: f"gammainc({shape}, {of(y)})", lambda y: f"gammaincc({shape}, {of(y)})", "positive")


def gamma(shape: str, mean: str) -> Portable:
    """Gamma of a shape and a mean."""

    def of(y: str) -> str:
        return f"(shape * {y} / centre)"

    own, biased = _gamma_tails("shape", of), _gamma_tails("shape + 1.0", of)
    tails = replace(own, mean=lambda low, high, mass: f"centre * {biased.mass(low, high)} / {mass}")
    return Portable(
        _named(shape=shape, centre=mean), "centre", "gamma(shape) / shape * centre", tails=tails, valid=POSITIVE
    )


def exponential(mean: str) -> Portable:
    """Exponential of a mean."""
    biased = _gamma_tails("2.0", lambda y: f"({y} / centre)")
    tails = Tails(
        lambda y: f"-expm1(-{y} / centre)",
        lambda y: f"exp(-{y} / centre)",
        "positive",
        lambda low, high, mass: f"centre * {biased.mass(low, high)} / {mass}",
    )
    return Portable(_named(centre=mean), "centre", "centre * exponential()", tails=tails, valid=POSITIVE)


def weibull(shape: str, mean: str) -> Portable:
    """Weibull of a shape and a mean."""

    def of(y: str) -> str:
        return f"power({y} / scale, shape)"

    biased = _gamma_tails("1.0 + 1.0 / shape", of)
    tails = Tails(
        lambda y: f"-expm1(-{of(y)})",
        lambda y: f"exp(-{of(y)})",
        "positive",
        lambda low, high, mass: f"centre * {biased.mass(low, high)} / {mass}",
    )
    lets = _named(shape=shape, centre=mean, scale="centre / exp(gammaln(1.0 + 1.0 / shape))")
    return Portable(lets, "centre", "scale * power(exponential(), 1.0 / shape)", tails=tails, valid=POSITIVE)


def inverse_gaussian(mean: str, shape: str) -> Portable:
    """InverseGaussian of a mean and a shape; F = Phi(a) + exp(2 shape / mean) Phi(-b) (Shuster 1968)."""

    def z(y: str, sign: str) -> str:
        return f"(sqrt(shape) * (sqrt({y}) / centre {sign} 1.0 / sqrt({y})))"

    def rest(y: str) -> str:
        return f"exp(2.0 * shape / centre + log_ndtr(-{z(y, '+')}))"

    def part(y: str) -> str:
        return f"(ndtr({z(y, '-')}) - {rest(y)})"

    tails = Tails(
        lambda y: f"(ndtr({z(y, '-')}) + {rest(y)})",
        lambda y: f"(ndtr(-{z(y, '-')}) - {rest(y)})",
        "positive",
        lambda low, high, mass: f"centre * ({part(high)} - {part(low)}) / {mass}",
    )
    return Portable(_named(shape=shape, centre=mean), "centre", "wald(centre, shape)", tails=tails, valid=POSITIVE)


def beta(mean: str, rest: str, size: str) -> Portable:
    """Beta(mean size, (1 - mean) size)."""

    def tails(first: str) -> Tails:
        return Tails(
            lambda y: f"betainc({first}, second, {y})", lambda y: f"betainc(second, {first}, 1.0 - {y})", "unit"
        )

    own, biased = tails("first"), tails("first + 1.0")
    own = replace(own, mean=lambda low, high, mass: f"first / (first + second) * {biased.mass(low, high)} / {mass}")
    lets = _named(size=size, first=f"size * ({mean})", second=f"size * ({rest})")
    return Portable(lets, "first / (first + second)", "beta(first, second)", tails=own)


# Counts


def binomial(trials: str, probability: str) -> Portable:
    """Binomial, of one trial Bernoulli."""
    lets = _named(trials=trials, p=probability)
    return Portable(lets, "trials * p", "binomial(trials, p)")


def beta_binomial(trials: str, mean: str, rest: str, size: str) -> Portable:
    """Binomial of a probability that is Beta(mean size, (1 - mean) size)."""
    lets = _named(trials=trials, size=size, first=f"size * ({mean})", second=f"size * ({rest})")
    return Portable(lets, "trials * first / (first + second)", "binomial(trials, beta(first, second))")


FIRST = "1.0 + log1p(uniform() * expm1(-({0}))) / ({0})"
"""Of the time 1, what is left behind the first event of a Poisson process of this rate that has one."""


def poisson(rate: str) -> Portable:
    """Poisson."""
    positive = f"1.0 + poisson(rate * maximum({FIRST.format('rate')}, 0.0))"
    valid = "isfinite(rate) * (rate >= 0.0)"
    return Portable(_named(rate=rate), "rate", "poisson(rate)", log_zero="-rate", positive=positive, valid=valid)


def negative_binomial(count: str, odds: str) -> Portable:
    """Poisson counts of rate odds times a gamma number of shape count; the mean is count odds.

    Above 0 they are events that count a logarithmic number each (Quenouille 1949), the first by Kemp (1981), and a
    negative binomial number of the time that is left.
    """
    left = f"maximum({FIRST.format('count * each')}, 1e-300)"
    first = "maximum(floor(1.0 + log(uniform()) / log(-expm1(-each * uniform()))), 1.0)"
    return Portable(
        _named(count=count, odds=odds, each="log1p(odds)"),
        "count * odds",
        "poisson(gamma(count) * odds)",
        log_zero="-count * each",
        positive=f"{first} + poisson(gamma(count * {left}) * odds)",
        valid="isfinite(count * odds) * (count >= 0.0) * (odds >= 0.0)",
    )


# Categories


def categories(probability: str, *, ordered: bool) -> Portable:
    """Of probabilities; the mean of ordered ones is the expected code."""
    return Portable(_named(p=probability), "weighted(p)" if ordered else None, "category(p)", "p")


LAWS = {
    "logit": ("expit({0})", "expit(-({0}))"),
    "probit": ("ndtr({0})", "ndtr(-({0}))"),
    "cloglog": ("-expm1(-exp({0}))", "exp(-exp({0}))"),
}
"""F and 1 - F by the link of an ordinal family."""


def thresholds(kind: str, link: str) -> Portable:
    """Ordered categories by thresholds cuts_y: "cumulative", "stopping" or "adjacent"."""
    gaps = "gaps(cuts_y, eta)"
    if kind == "adjacent":
        return categories(f"adjacent({gaps})", ordered=True)
    below, above = (one.format(gaps) for one in LAWS[link])
    return categories(f"{kind}({below}, {above})", ordered=True)


# Made of another one


def zero_inflated(base: Portable) -> Portable:
    """0 with probability zi_y, whatever the base says."""
    drawn = f"where(uniform() < zi_y, 0.0, {base.response})"
    return replace(_plain(base), mean=f"(1.0 - zi_y) * ({base.mean})", response=drawn)


def hurdle(base: Portable) -> Portable:
    """0 with probability hu_y, else the base above 0."""
    above = f"where({base.mean} > 0.0, ({base.mean}) / -expm1({base.log_zero}), 1.0)" if base.log_zero else base.mean
    drawn = f"where(uniform() < hu_y, 0.0, {base.positive or base.response})"
    return replace(_plain(base), mean=f"(1.0 - hu_y) * ({above})", response=drawn)


def zero_one_inflated(base: Portable) -> Portable:
    """0 or 1 with probability zoi_y, and then 1 with probability coi_y."""
    drawn = f"where(uniform() < zoi_y, where(uniform() < coi_y, 1.0, 0.0), {base.response})"
    return replace(_plain(base), mean=f"zoi_y * coi_y + (1.0 - zoi_y) * ({base.mean})", response=drawn)


def _plain(base: Portable) -> Portable:
    return replace(base, log_zero="", positive="", tails=None)


def truncated(base: Portable, low: float | str | None, high: float | str | None) -> Portable | None:
    """The base between two ends, numbers or columns; None where it has no tails."""
    if (tails := base.tails) is None:
        return None
    least, most = {"real": ("-inf", "inf"), "positive": ("0.0", "inf"), "unit": ("0.0", "1.0")}[tails.support]
    ends = [column(end) if isinstance(end, str) else repr(float(end)) for end in (low, high) if end is not None]
    first = least if low is None else f"minimum(maximum({ends[0]}, {least}), {most})"
    last = most if high is None else f"minimum(maximum({ends[-1]}, {least}), {most})"
    lets = (*base.lets, ("low", first), ("high", last), ("mass", tails.mass("low", "high")))
    mean = None if tails.mean is None else tails.mean("low", "high", "mass")
    drawn = f"within({tails.below('y')}, {tails.above('y')}, low, high, {tails.support!r})"
    return replace(base, lets=lets, mean=mean, response=drawn, tails=None)

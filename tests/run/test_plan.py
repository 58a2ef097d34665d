"""Plans: which moves run on which latents, how they are printed, and what a user may ask for."""

import re
from dataclasses import replace
from functools import partial
from itertools import pairwise

import builders
import numpy as np
import pytest
import torch
from torch.distributions import Beta, Gamma, Normal, Poisson, StudentT

import hiertorch as ht
from hiertorch.density.structure import analyse
from hiertorch.errors import ModelError
from hiertorch.model.checks import inspect
from hiertorch.models import CompletePooling, VaryingIntercepts
from hiertorch.moves.joint import Joint
from hiertorch.run.plan import Plan, Step, make_plan

pytestmark = pytest.mark.filterwarnings("ignore:grouping .* is never read")


refused = partial(builders.refused, ModelError)


def school_data(rows=120, seed=0):
    rng = np.random.default_rng(seed)
    school = np.append(np.arange(12), rng.integers(12, size=rows - 12))
    groups = {
        "school": school,
        "district": school // 4,
        "rater": np.append(np.arange(5), rng.integers(5, size=rows - 5)),
    }
    return ht.Data(rng.normal(size=rows), groups=groups, x=rng.normal(size=rows))


def planned(model, moves=None, **options):
    data = school_data()
    with torch.no_grad():
        structure = analyse(model, data, inspect(model, data, **options)[0], **options)
        return make_plan(structure, moves)


def steps(plan):
    return [(step.move.kind, tuple(step.move.block), step.move.plate, step.move.passes) for step in plan.steps]


def carried(plan):
    return {tuple(step.move.block): tuple(step.move.carried) for step in plan.steps if step.move.kind == "non-centred"}


class Nested(ht.Model):
    mu = ht.Latent(Normal(0.0, 1.0))
    tau = ht.Latent(Gamma(2.0, 1.0))
    omega = ht.Latent(Gamma(2.0, 1.0))
    sigma = ht.Latent(Gamma(2.0, 1.0))
    district = ht.Latent(lambda v: Normal(v.mu, v.omega), plate="district")
    school = ht.Latent(lambda v, data: Normal(v.district[:, data.parents("school", "district")], v.tau), plate="school")

    def likelihood(self, v, data):
        return Normal(v.school[:, data.school], v.sigma)


class Crossed(ht.Model):
    mu = ht.Latent(Normal(0.0, 1.0))
    tau = ht.Latent(Gamma(2.0, 1.0))
    omega = ht.Latent(Gamma(2.0, 1.0))
    school = ht.Latent(lambda v: Normal(0.0, v.tau), plate="school")
    rater = ht.Latent(lambda v: Normal(0.0, v.omega), plate="rater")

    def likelihood(self, v, data):
        return Normal(v.mu + v.school[:, data.school] + v.rater[:, data.rater], 1.0)


# Default plans


def test_varying_intercepts():
    plan = planned(VaryingIntercepts("school", predictors=["x"], priors="tutorial"))
    assert steps(plan) == [
        ("groupwise", ("alpha",), "school", 1),
        ("centred", ("mu_alpha", "sigma_alpha"), None, 0),
        ("joint", ("beta", "sigma_y"), None, 1),
        ("non-centred", ("mu_alpha", "sigma_alpha", "beta", "sigma_y"), None, 1),
    ]
    assert plan.passes == sum(step.repeats for step in plan.steps if step.move.kind != "centred")
    assert carried(plan) == {("mu_alpha", "sigma_alpha", "beta", "sigma_y"): ("alpha",)}
    assert [step.move.width for step in plan.steps] == [1, 2, 2, 4]


def test_nested_groupings_finest_first():
    plan = planned(Nested())
    assert steps(plan) == [
        ("groupwise", ("school",), "school", 1),
        ("groupwise", ("district",), "district", 0),
        ("centred", ("mu", "tau", "omega"), None, 0),
        ("joint", ("sigma",), None, 1),
        ("non-centred", ("tau", "sigma"), None, 1),
        ("non-centred", ("mu", "omega", "sigma"), None, 1),
    ]
    assert carried(plan) == {("tau", "sigma"): ("school",), ("mu", "omega", "sigma"): ("district", "school")}


def test_crossed_groupings():
    plan = planned(Crossed())
    assert steps(plan) == [
        ("groupwise", ("school",), "school", 1),
        ("groupwise", ("rater",), "rater", 1),
        ("centred", ("tau", "omega"), None, 0),
        ("joint", ("mu",), None, 1),
        ("non-centred", ("mu", "tau"), None, 1),
        ("non-centred", ("mu", "omega"), None, 1),
        ("shift", ("mu", "school", "rater"), None, 1),
    ]


def test_complete_pooling_is_one_joint_move():
    assert steps(planned(CompletePooling(["x"], priors="tutorial"))) == [
        ("joint", ("alpha", "beta", "sigma_y"), None, 1)
    ]


def test_several_effects_of_a_group_move_together():
    class Slopes(VaryingIntercepts):
        slope = ht.Latent(lambda v: Normal(0.0, v.sigma_alpha), plate="school")

        def likelihood(self, v, data):
            return Normal(v.alpha[:, data.school] + v.slope[:, data.school] * data.x, v.sigma_y)

    plan = planned(Slopes("school", priors="tutorial"))
    assert steps(plan)[0] == ("groupwise", ("slope", "alpha"), "school", 1)
    assert carried(plan) == {("mu_alpha", "sigma_alpha", "sigma_y"): ("slope", "alpha")}


def test_many_coefficients_stay_out_of_the_non_centred_move():
    """A normal guess of more than 12 dimensions is hardly ever accepted."""
    for n, beside in ((9, ("beta", "sigma_y")), (10, ())):
        columns = {f"x{k}": np.arange(30.0) ** (k + 1) / 30.0**k for k in range(n)}
        data = ht.Data(np.arange(30.0) % 7, groups={"school": np.arange(30) % 5}, **columns)
        plan = ht.plan(VaryingIntercepts("school", list(columns)), data, collapse=False)
        assert plan.steps[-1].move.block == ("mu_alpha", "sigma_alpha", *beside)


def test_without_population_level_latents():
    class Separate(ht.Model):
        alpha = ht.Latent(Normal(0.0, 1.0), plate="school")

        def likelihood(self, v, data):
            return Normal(v.alpha[:, data.school], 1.0)

    assert steps(planned(Separate())) == [("groupwise", ("alpha",), "school", 1)]


def test_an_opaque_model_moves_as_a_whole():
    class Opaque(Nested):
        def log_prob(self, v, data):
            return super().log_prob(v, data)

    plan = planned(Opaque())
    assert steps(plan) == [("joint", ("mu", "tau", "omega", "sigma", "district", "school"), None, 1)]
    assert plan.steps[0].reason == "the model overrides log_prob, so nothing is known of its pieces"
    assert "no groupwise move for 'school': the model overrides log_prob" in str(plan)


def test_prior_only_needs_no_pass():
    plan = planned(Nested(), prior_only=True)
    assert plan.passes == 0
    assert {kind for kind, *_ in steps(plan)} == {"groupwise", "centred", "non-centred"}
    assert "the likelihood is left out" in str(plan)
    assert "0 passes" in str(plan)


def test_groups_that_mix_move_with_the_population():
    class SumToZero(Crossed):
        def likelihood(self, v, data):
            rater = v.rater - v.rater.mean(1, keepdim=True)
            return Normal(v.mu + v.school[:, data.school] + rater[:, data.rater], 1.0)

    plan = planned(SumToZero())
    assert steps(plan)[:3] == [
        ("groupwise", ("school",), "school", 1),
        ("centred", ("tau", "omega"), None, 0),
        ("joint", ("mu", "rater"), None, 1),
    ]
    assert plan.steps[2].move.width == 6
    last = str(plan).splitlines()[-1]
    reason = "the likelihood of a row reads effects of other groups of 'rater' than its own"
    assert last == f"no groupwise move for 'rater': {reason}"


def test_effects_that_can_not_be_carried_have_no_non_centred_move():
    class Fractions(ht.Model):
        a = ht.Latent(Gamma(2.0, 1.0))
        p = ht.Latent(lambda v: Beta(v.a, 1.0), plate="school")

        def likelihood(self, v, data):
            return Normal(v.p[:, data.school], 1.0)

    assert [kind for kind, *_ in steps(planned(Fractions()))] == ["groupwise", "centred"]


# Printing


class Verbose(ht.Model):
    """Long names, many of them."""

    average_over_everything = ht.Latent(Normal(0.0, 1.0))
    scale_between_schools = ht.Latent(Gamma(2.0, 1.0))
    scale_between_districts = ht.Latent(Gamma(2.0, 1.0))
    scale_between_raters = ht.Latent(Gamma(2.0, 1.0))
    effect_of_district = ht.Latent(
        lambda v: Normal(v.average_over_everything, v.scale_between_districts), plate="district"
    )
    effect_of_school = ht.Latent(
        lambda v, data: Normal(v.effect_of_district[:, data.parents("school", "district")], v.scale_between_schools),
        plate="school",
    )
    effect_of_rater = ht.Latent(lambda v: Normal(0.0, v.scale_between_raters), plate="rater")

    def likelihood(self, v, data):
        rater = v.effect_of_rater - v.effect_of_rater.amax(1, keepdim=True)
        return Normal(v.effect_of_school[:, data.school] + rater[:, data.rater], 1.0)


@pytest.mark.parametrize(
    "model", [VaryingIntercepts("school", ["x"], priors="tutorial"), Nested(), Crossed(), Verbose()]
)
def test_the_printed_plan_tells_everything_in_140_columns(model):
    plan = planned(model)
    text = str(plan)
    lines = text.splitlines()
    assert max(map(len, lines)) <= 140
    assert all(line == line.rstrip() for line in lines)
    assert re.split(r"  +", lines[0]) == ["block", "move", "decides per", "dims", "passes", "why"]
    words = " ".join(text.split())
    for step in plan.steps:
        assert step.move.kind in words
        assert all(word in words for word in step.reason.split())
        assert all(name in words for name in step.move.block)
    rows = plan.held_rows
    assert f"{plan.passes} passes over {rows} held rows (120 in the data) a sweep" in words


def test_columns_of_the_printed_plan_are_aligned():
    lines = str(planned(Verbose())).splitlines()
    table = [line for line in lines[1:] if "passes over" not in line and "no groupwise" not in line]
    starts = [lines[0].index(word) for word in ("block", "move", "decides per", "dims", "passes", "why")]
    for line in table:
        assert all(line[start - 2 : start].strip() == "" for start in starts[1:])
    first = [line for line in table if line[starts[1] :].split()]
    assert [line[starts[3] : starts[3] + 4].strip() for line in first if line[starts[3] : starts[3] + 4].strip()] == [
        str(step.move.width) for step in planned(Verbose()).steps
    ]


def test_repeats_and_sizes_are_shown():
    text = str(
        planned(Nested(), [("groupwise", ["school"]), ("joint", ["mu", "tau", "omega", "sigma", "district"], 3)])
    )
    assert "joint x3" in text
    assert "chain and school (12)" in text
    assert "4 passes over" in text
    assert "named by the user" in text


# The user's own moves


def test_the_spec_of_a_plan_makes_it_again():
    for model in (Nested(), Crossed(), Verbose()):
        plan = planned(model)
        again = planned(model, plan.spec)
        assert isinstance(again, Plan)
        assert steps(again) == steps(plan)
        assert [step.repeats for step in again.steps] == [step.repeats for step in plan.steps]
        assert carried(again) == carried(plan)


def test_moves_of_ones_own():
    moves = [("groupwise", ["school"], 2), ("joint", ("mu", "sigma", "district")), ("centred", ["tau", "omega"])]
    plan = planned(Nested(), moves)
    assert steps(plan) == [
        ("groupwise", ("school",), "school", 1),
        ("joint", ("mu", "sigma", "district"), None, 1),
        ("centred", ("tau", "omega"), None, 0),
    ]
    assert [step.repeats for step in plan.steps] == [2, 1, 1]
    assert plan.passes == 3
    assert plan.steps[1].move.width == 5


REST = ("joint", ["mu", "tau", "omega", "sigma", "district", "school"])


@pytest.mark.parametrize(
    ("move", "parts"),
    [
        (
            ("gibbs", ["mu"]),
            [
                "unknown move 'gibbs'",
                "'joint', 'groupwise', 'centred', 'non-centred', 'shift', and 'collapsed' or 'whitened' alone",
            ],
        ),
        (("collapsed", ["mu"]), ["unknown move 'collapsed'", "'collapsed' or 'whitened' alone"]),
        (("joint", ["mu", "nu"]), ["move 'joint' names ['nu']", "the model's latents are mu, tau, omega"]),
        (("joint", []), ["move 'joint' needs at least one latent and one repeat"]),
        (("joint", ["mu"], 0), ["needs at least one latent and one repeat, found ('mu',) and 0"]),
        (("joint", ["mu"], 1.5), ["needs at least one latent and one repeat", "1.5"]),
        (("joint", ["mu"], True), ["needs at least one latent and one repeat", "True"]),
        (("joint", ["mu", "mu"]), ["move 'joint' names a latent twice: ('mu', 'mu')"]),
        (("joint", "mu"), ["a move is a kind, a list of latents", "('joint', ['mu'], 2)", "found ('joint', 'mu')"]),
        (("joint",), ["a move is a kind, a list of latents"]),
        ("joint", ["a move is a kind, a list of latents", "found 'joint'"]),
        (3, ["a move is a kind, a list of latents", "found 3"]),
        (("joint", 3), ["a move is a kind, a list of latents"]),
        (
            ("centred", ["mu", "sigma"]),
            ["a centred move needs latents that no row reads", "('mu', 'sigma')", "use 'joint'"],
        ),
        (("groupwise", ["mu"]), ["a groupwise move on ('mu',) is not possible", "must share one plate"]),
        (("groupwise", ["school", "district"]), ["is not possible: its latents must share one plate"]),
        (("non-centred", ["sigma"]), ["is not possible: it takes population-level latents that the priors of group"]),
        (("non-centred", ["district"]), ["is not possible: it takes population-level latents"]),
    ],
)
def test_moves_that_do_not_fit(move, parts):
    with refused(*parts):
        planned(Nested(), [REST, move])


def test_moves_that_the_structure_forbids():
    class Fractions(ht.Model):
        a = ht.Latent(Gamma(2.0, 1.0))
        p = ht.Latent(lambda v: Beta(v.a, 1.0), plate="school")
        q = ht.Latent(lambda v: Normal(v.a, 1.0), plate="rater")

        def likelihood(self, v, data):
            return Normal(v.p[:, data.school] + (v.q - v.q.mean(1, keepdim=True))[:, data.rater], 1.0)

    rest = ("joint", ["a", "p", "q"])
    with refused("a non-centred move on ('a',) is not possible: p: Beta is not a location-scale family"):
        planned(Fractions(), [rest, ("non-centred", ["a"])])
    with refused("a groupwise move on ('q',) is not possible: the likelihood of a row reads effects of other groups"):
        planned(Fractions(), [rest, ("groupwise", ["q"])])
    assert len(planned(Fractions(), [rest, ("groupwise", ["p"])]).steps) == 2


def test_every_latent_needs_a_move():
    with refused("no move of the plan touches 'district', 'school'", "('joint', ['district', 'school'])"):
        planned(Nested(), [("joint", ["mu", "tau", "omega", "sigma"])])
    with refused("no move of the plan touches 'mu', 'tau', 'omega', 'sigma', 'district', 'school'"):
        planned(Nested(), [])


def test_being_carried_is_no_move():
    """A non-centred move keeps the standardised effects as they are; alone it would never change them."""
    moves = [("joint", ["mu", "tau", "omega", "sigma", "district"]), ("non-centred", ["tau"])]
    with refused("no move of the plan touches 'school'"):
        planned(Nested(), moves)


def test_a_plan_on_another_device():
    plan = planned(Verbose())
    there = plan.to("meta")
    assert steps(there) == steps(plan)
    assert str(there) == str(plan)
    assert there.target.data.device.type == "meta"
    assert plan.target.data.device.type == "cpu"


# Plans that integrate out


class Known(ht.Model):
    """y_ij ~ Normal(alpha_j, 1),  alpha_j ~ Normal(mu, 0.7): no scale is left to be sampled."""

    mu = ht.Latent(Normal(0.0, 2.0))
    alpha = ht.Latent(lambda v: Normal(v.mu, 0.7), plate="school")

    def likelihood(self, v, data):
        return Normal(v.alpha[:, data.school], 1.0)


COLLAPSED = [
    (VaryingIntercepts("school", ["x"], priors="tutorial"), "sigma_alpha, sigma_y", "mu_alpha, beta, alpha", 14),
    (Nested(), "tau, omega, sigma", "mu, district, school", 16),
    (Crossed(), "tau, omega", "mu, school, rater", 18),
    (CompletePooling(["x"], priors="tutorial"), "sigma_y", "alpha, beta", 2),
    (Known(), "", "mu, alpha", 13),
]


@pytest.mark.parametrize(("model", "left", "exact", "numbers"), COLLAPSED, ids=lambda x: type(x).__name__)
def test_a_collapsed_plan_tells_what_is_integrated_out(model, left, exact, numbers):
    plan = ht.plan(model, school_data())
    assert steps(plan) == [("collapsed", tuple(model.latents), None, 0)]
    assert plan.passes == 0 and plan.note == ""
    assert plan.collapsed is plan.steps[0].move
    lines = str(plan).splitlines()
    assert max(map(len, lines)) <= 140 and all(line == line.rstrip() for line in lines)
    names = ("block", "move", "decides per", "dims", "passes", "why")
    starts = [*map(lines[0].index, names), None]
    rows = [[line[a:b].strip() for a, b in pairwise(starts)] for line in lines[1:-1]]
    number = plan.collapsed.width
    assert number == len(left.split())
    why = "all others are integrated out" if left else "nothing is left to sample"
    assert rows == [
        [left, "collapsed", "chain", str(number), "0", why],
        [exact, "exact", "", str(numbers), "0", f"Gaussian given {left or 'nothing'}: drawn outright"],
    ]
    assert lines[-1] == "no passes over the 120 rows, which are summed up once"


class LongNames(Verbose):
    """Without what keeps it from being collapsed."""

    def likelihood(self, v, data):
        return Normal(v.effect_of_school[:, data.school] + v.effect_of_rater[:, data.rater], 1.0)


def test_a_collapsed_plan_of_long_names_is_folded():
    plan = ht.plan(LongNames(), school_data())
    assert plan.collapsed is not None
    lines = str(plan).splitlines()
    assert max(map(len, lines)) <= 140 and len(lines) > 6
    words = [word.strip(",") for line in lines[1:] for word in line[: lines[0].index("move")].split()]
    assert [word for word in words if word in plan.steps[0].move.block] == [
        *(name for name in LongNames().latents if name in plan.collapsed.rest),
        *(name for name in LongNames().latents if name not in plan.collapsed.rest),
    ]


class Counts(VaryingIntercepts):
    def likelihood(self, v, data):
        return Poisson((v.alpha[:, data.school] + v.sigma_y).exp())


class Heavy(VaryingIntercepts):
    def __init__(self, plate, **options):
        super().__init__(plate, **options)
        self.alpha = ht.Latent(lambda v: StudentT(4.0, v.mu_alpha, v.sigma_alpha), plate=plate)


class Whole(VaryingIntercepts):
    def log_prob(self, v, data):
        return super().log_prob(v, data)


class Curved(VaryingIntercepts):
    def likelihood(self, v, data):
        return Normal(v.alpha[:, data.school].exp(), v.sigma_y)


class Many(VaryingIntercepts):
    scales = ht.Latent(Gamma(2.0, 2.0), event=140)

    def likelihood(self, v, data):
        return Normal(v.alpha[:, data.school], v.sigma_y * v.scales.log().mean(-1).exp())


class OneScale(ht.Model):
    sigma = ht.Latent(Gamma(2.0, 2.0))

    def likelihood(self, v, data):
        return Normal(0.0, v.sigma)


REASONS = [
    (Counts("school", priors="tutorial"), "the likelihood is Poisson, not Normal", ""),
    (
        Heavy("school", priors="tutorial"),
        "'alpha' varies over 'school' and can't be integrated out: its prior is StudentT and not Normal",
        "rows read 'alpha', which varies over groups, and whose prior is not normal",
    ),
    (Whole("school", priors="tutorial"), "the model overrides log_prob", "the model overrides log_prob"),
    (
        Curved("school", priors="tutorial"),
        "the mean of the likelihood is not affine in 'alpha'",
        "",
    ),
    (
        Many("school", priors="tutorial"),
        "142 dimensions are left beside what can be integrated out, more than 120",
        "142 dimensions are left, more than 20",
    ),
    (
        OneScale(),
        "the mean of the likelihood is linear in no latent with a normal prior",
        "rows read no latent with a normal prior",
    ),
]


@pytest.mark.parametrize(("model", "reason", "another"), REASONS, ids=lambda x: type(x).__name__)
def test_a_plan_says_why_it_is_not_collapsed(model, reason, another):
    data = school_data()
    data = data.replace(y=data.y.abs().round())
    plan = ht.plan(model, data)
    assert plan.collapsed is None and {step.move.kind for step in plan.steps} <= {
        "groupwise",
        "joint",
        "centred",
        "non-centred",
    }
    said = f"not collapsed: {reason}" + f"\nnot whitened: {another}" * bool(another)
    assert str(plan).endswith(f"\n{said}")
    assert (plan.surrogate is None) == bool(another)
    if another:
        ordinary = ht.plan(model, data, collapse=False)
        assert steps(ordinary) == steps(plan)
        assert str(ordinary) == str(plan).removesuffix(f"\n{said}")
    asked = [("collapsed", list(model.latents))]
    if isinstance(model, Many):  # possible, only not wise: a user may ask for it
        assert ht.plan(model, data, moves=asked).collapsed is not None
        return
    with refused(f"the move 'collapsed' is not possible: {reason}."):
        ht.plan(model, data, moves=asked)


def test_both_reasons_stand_below_each_other():
    whitened, last, but_one = str(ht.plan(Verbose(), school_data())).splitlines()[:-4:-1]
    assert whitened == "not whitened: the predictor of the rows is not linear in effects and coefficients together"
    assert last == "not collapsed: the mean of the likelihood is not affine in 'effect_of_rater'"
    assert but_one.startswith("no groupwise move for 'rater'")


def test_data_of_their_own_in_every_chain_are_summed_up_apart():
    data = school_data()
    for own in (
        data.replace(y=data.y + torch.arange(3.0).unsqueeze(1)),
        data.replace(weights=torch.rand(3, data.n_rows)),
    ):
        plan = ht.plan(Known(), own)
        assert plan.collapsed is not None and plan.collapsed.collapsed.sets == 3


def test_a_prior_alone_is_not_collapsed():
    plan = ht.plan(Nested(), school_data(), prior_only=True)
    assert plan.collapsed is None and "not collapsed" not in str(plan)
    with refused("the move 'collapsed' is not possible: the likelihood is left out."):
        ht.plan(Nested(), school_data(), prior_only=True, moves=[("collapsed", list(Nested().latents))])


@pytest.mark.parametrize("collapse", [True, False])
def test_the_collapsed_move_may_be_named(collapse):
    data = school_data()
    default = ht.plan(Nested(), data)
    assert default.spec == [("collapsed", tuple(Nested().latents), 1)]
    for moves in (default, default.spec, [("collapsed", list(Nested().latents))]):
        assert str(ht.plan(Nested(), data, moves=moves, collapse=collapse)) == str(default)


def test_the_collapsed_move_may_be_a_list_as_any_other():
    data = school_data()
    moves = [["collapsed", list(Nested().latents)]]
    assert str(ht.plan(Nested(), data, moves=moves)) == str(ht.plan(Nested(), data))


@pytest.mark.parametrize("moves", [[("collapsed", ["nu"])], [("collapsed", [*Nested().latents, "nu"])]])
def test_the_collapsed_move_of_a_latent_that_is_none(moves):
    with refused("move 'collapsed' names ['nu']", "the model's latents are mu, tau, omega"):
        ht.plan(Nested(), school_data(), moves=moves)


def test_the_collapsed_move_stands_alone():
    spec = ht.plan(Nested(), school_data()).spec
    for moves in ([*spec, REST], [REST, *spec], spec * 2):
        with refused("unknown move 'collapsed'", "'collapsed' or 'whitened' alone"):
            ht.plan(Nested(), school_data(), moves=moves)


@pytest.mark.parametrize(
    ("moves", "words"),
    [
        *((wrong, "a plan is a list of moves such as") for wrong in (3, "joint", {"joint": ["mu"]})),
        *((wrong, "a move is a kind, a list of latents and perhaps repeats") for wrong in ([3], [None], [()])),
    ],
)
def test_moves_that_are_no_list_of_moves(moves, words):
    with refused(words):
        ht.plan(Nested(), school_data(), moves=moves)


def test_the_reason_goes_along_to_another_device():
    plan = ht.plan(Verbose(), school_data())
    assert str(plan.to("meta")) == str(plan)


# ht.plan


def test_plan_takes_moves_or_another_plan():
    data = school_data()
    default = ht.plan(VaryingIntercepts("school", priors="tutorial"), data, collapse=False)
    edited = [*default.spec, ("joint", ("mu_alpha", "alpha"), 1)]
    assert ht.plan(VaryingIntercepts("school", priors="tutorial"), data, moves=edited).spec == edited
    with refused("unknown move"):
        ht.plan(VaryingIntercepts("school", priors="tutorial"), data, moves=[("wrong", ["alpha"])])
    again = ht.plan(VaryingIntercepts("school", priors="tutorial"), school_data(), moves=default)
    assert str(again) == str(default)


class Counting(Joint):
    """A move of a stranger's, which notes that it ran."""

    steps = 0

    def step(self, state, tuning, noise):
        Counting.steps += 1
        return super().step(state, tuning, noise)


def test_a_plan_runs_its_own_steps():
    model, data = VaryingIntercepts("school", priors="tutorial"), school_data()
    default = ht.plan(model, data, collapse=False)
    own = Step(Counting(["mu_alpha"]).on(default.structure), 2, "mine")
    mine = replace(default, steps=(own, *default.steps), note="by hand")
    Counting.steps = 0
    settings = {"chains": 3, "warmup": 5, "draws": 7, "thin": 1, "seed": 1, "progress": False}
    with pytest.warns(ht.SamplingWarning):
        posterior = ht.sample(model, data, plan=mine, **settings)
    assert Counting.steps == 2 * (1 + 12)  # one sweep prepares
    assert posterior.run["plan_text"] == str(mine)
    with pytest.warns(ht.SamplingWarning):  # another number of chains: the plan is as it was
        again = ht.sample(model, data, plan=mine, **{**settings, "chains": 2})
    assert again.chains == 2 and Counting.steps == 4 * (1 + 12)
    with pytest.warns(ht.SamplingWarning):  # in single precision, of a model that is the same
        single = ht.sample(
            VaryingIntercepts("school", priors="tutorial"), data, plan=mine, dtype=torch.float32, **settings
        )
    assert Counting.steps == 6 * (1 + 12)
    assert single.run["plan_text"] == str(mine) and single["mu_alpha"].dtype == torch.float32


@pytest.mark.parametrize("collapse", [True, False])
def test_a_plan_of_something_else_is_refused(collapse):
    model, data = VaryingIntercepts("school", priors="tutorial"), school_data()
    made = ht.plan(model, data, collapse=collapse)
    with pytest.raises(ht.DataError, match="the plan is of other data: the response"):
        ht.sample(model, school_data(seed=1), plan=made, seed=1)
    with refused("the plan is of another model"):
        ht.sample(VaryingIntercepts("school", ["x"], priors="tutorial"), data, plan=made, seed=1)
    with refused("the plan is of another model"):
        ht.sample(VaryingIntercepts("rater", priors="tutorial"), data, plan=made, seed=1)
    prior = ht.plan(model, data, prior_only=True)
    with refused("of the prior alone"):
        ht.sample(model, data, plan=prior, seed=1)


def test_a_plan_is_the_same_in_single_precision():
    model, data = VaryingIntercepts("school", priors="tutorial"), school_data()
    made = ht.plan(model, data, collapse=False)
    with pytest.warns(ht.SamplingWarning):
        posterior = ht.sample(model, data, plan=made, dtype=torch.float32, chains=2, draws=5, warmup=5, progress=False)
    assert posterior.run["plan_text"] == str(made)

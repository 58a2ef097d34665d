"""The linear predictors of a formula, and the priors of its effects, in the little language of `hiertorch.deploy`."""

from collections.abc import Mapping

from hiertorch.families import Family
from hiertorch.families.portable import codes, column, dotted, latent
from hiertorch.formulas.design import Encoding
from hiertorch.formulas.predictors import Effects, Predictor, latent_of, root_of
from hiertorch.models.design import Exported, Population


def exported(encoding: Encoding, family: Family, inverses: Mapping[str, str]) -> Exported:
    """What stands in each row of a formula's model.

    Args:
        encoding: of the formula.
        family: of the rows.
        inverses: other parameter of the rows -> from its predictor, {}, to it.
    """
    made = encoding.predictors
    own = made if family.several else made[:1]
    lets = {
        latent_of(one.parameter): inverses[one.parameter].format(_predictor(encoding, one, leveled=one.intercept))
        for one in made[len(own) :]
    }
    each = [_predictor(encoding, one, leveled=one.intercept and not family.thresholds) for one in own]
    lets["eta"] = f"last({', '.join(f'full({text})' for text in each)})" if family.several else each[0]
    return Exported(lets, {f"effects_{one.name}": _population(one) for one in encoding.effects})


def _predictor(encoding: Encoding, one: Predictor, *, leveled: bool) -> str:
    text = latent(one.called("mu")) if leveled else "0.0"
    if one.column is not None:
        text += dotted(one.called("beta"), [one.column])
    for effects in encoding.effects:
        if entries := [k for k, _ in effects.of(one.parameter)]:
            own = f"{latent(f'effects_{effects.name}')}, {codes(effects.plate)}, {column(effects.column)}"
            text += f" + effects({own}, {entries!r})"
    return text if one.offset is None else f"{text} + {column(one.offset)}"


def _population(effects: Effects) -> Population:
    roots = [(part.start, latent(root_of(effects.name, k))) for k, part in enumerate(effects.roots)]
    root = None
    if roots:
        whole = effects.roots[0] == slice(0, len(effects.labels))
        each = ", ".join(f"{start}, {text}" for start, text in roots)
        root = roots[0][1] if whole else f"blocks({len(effects.labels)}, {each})"
    return Population("0.0", latent(f"sigma_{effects.name}"), root)

"""The likelihood of a model of a user's own class, and priors of its effects, as programs of `torch.export`.

A program is a graph of torch's operations on draws of latents, columns of rows and codes of groups, of any number of
draws, rows and groups. Readers need torch to run it, and no class.
"""

import io
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal

from hiertorch.draws.fit import Fit
from hiertorch.draws.fitted import Fitted
from hiertorch.errors import HiertorchError, ModelError
from hiertorch.model.means import centre
from hiertorch.model.model import Model
from hiertorch.predict.categories import probabilities

Input = tuple[str, str, list[int]]
"""A table of the file, a name in it, and the axes of which the number is any: "v", "alpha", [0, 1]."""

SHOWN = 200
"""Letters of what torch says."""


class Holder(Protocol):
    """What programs are added to; see `hiertorch.predict.exporting.Written`."""

    outputs: dict[str, object]
    effects: list[dict[str, object]]
    programs: dict[str, list[Input]]
    contents: dict[str, Tensor]


class Traced:
    """New rows as a likelihood reads them while it is recorded: columns and codes, and no facts of groups."""

    def __init__(self, columns: Mapping[str, Tensor], codes: Mapping[str, Tensor], name: str, like: Tensor) -> None:
        self.columns, self.codes, self.name = dict(columns), dict(codes), name
        self.device, self.dtype = like.device, like.dtype
        self.n_rows = next(iter((*columns.values(), *codes.values()))).shape[0]
        self.y = like.new_zeros(self.n_rows)

    def __getitem__(self, name: str) -> Tensor:
        return self.columns[name] if name in self.columns else self.codes[name]

    def __getattr__(self, name: str) -> Tensor:
        columns, codes = self.__dict__.get("columns", {}), self.__dict__.get("codes", {})
        if name in columns or name in codes:
            return self[name]
        raise ModelError(f"it reads data.{name}, which an exported model's rows do not have")


class _Recorded(torch.nn.Module):
    """A function of latents and rows, of tensors in the order of its inputs."""

    def __init__(self, fitted: Fitted, inputs: Sequence[Input], kind: str) -> None:
        super().__init__()
        self._fitted, self._inputs, self._kind = [fitted], list(inputs), kind  # in a list: it is no part

    def forward(self, given: list[Tensor]) -> Tensor | tuple[Tensor, Tensor]:
        """Means, draws or probabilities of rows, or place and root of a prior."""
        fitted = self._fitted[0]
        tables: dict[str, dict[str, Tensor]] = {"v": {}, "x": {}, "g": {}}
        for (table, name, _), x in zip(self._inputs, given, strict=True):
            tables[table][name] = x
        model: Model = fitted.model
        like = given[0]
        rows: Any = Traced(tables["x"], tables["g"], fitted.data.name, like)
        v = model.values(tables["v"])
        if self._kind.startswith("prior/"):
            return normal(model.prior(self._kind.removeprefix("prior/"), v, rows))
        y = model.likelihood(v, rows)
        if self._kind == "probability":
            return probabilities(y)
        if self._kind == "mean":
            return centre(y)
        return y.expand(torch.Size((like.shape[0], rows.n_rows))).sample().to(like.dtype)


def normal(prior: Distribution) -> tuple[Tensor, Tensor]:
    """Place and scale, or root, of a normal prior.

    Raises:
        ModelError: for another one.
    """
    if isinstance(prior, MultivariateNormal):
        return prior.loc, prior.scale_tril
    base = prior.base_dist if isinstance(prior, Independent) else prior
    if not isinstance(base, Normal):
        raise ModelError(f"is {type(base).__name__}, and effects of new groups are made of normal numbers")
    return base.loc, base.scale


def written(found: Holder, fit: Fit, fitted: Fitted) -> Any:
    """A model by the programs of its likelihood and priors.

    Raises:
        ModelError: if torch can't record it.
    """
    model, data = fitted.model, fitted.data
    held = {**fit.more, **fit.draws}
    names = [name for name in model.latents if name in held]
    v: list[Input] = [("v", name, [0] if model.latents[name].plate is None else [0, 1]) for name in names]
    rows: list[Input] = [("x", name, [0]) for name in data.columns] + [("g", plate, [0]) for plate in data.plates]
    if not rows:
        raise ModelError(f"{type(model).__name__} reads no column and no grouping, so that there is nothing to predict")
    why = dict[str, str]()
    for kind in ("mean", "response", "probability"):
        found.outputs[kind] = None
        try:
            found.contents[f"program/{kind}"] = _recorded(fit, fitted, [*v, *rows], kind)
        except (HiertorchError, NotImplementedError) as error:
            why[kind] = str(error)
        else:
            found.programs[f"program/{kind}"] = [*v, *rows]
            found.outputs[kind] = {"program": f"program/{kind}"}
    if len(why) == 3:
        raise ModelError(
            f"the likelihood of {type(model).__name__} can't be exported: {why['response']}. Write it by operations of "
            "torch on latents, columns and codes alone, without branches on their values."
        )
    for at, name in enumerate(names):
        plate = model.latents[name].plate
        if plate is None or not fitted.varies(plate) or fitted.is_axis(plate):
            continue
        told: dict[str, object] = {"name": name, "plate": plate, "why": "", "mean": None, "scale": None, "root": None}
        key, inputs = f"prior/{name}", [*v[:at], *rows]
        try:
            found.contents[key] = _recorded(fit, fitted, inputs, key)
        except HiertorchError as error:
            told["why"] = f"the prior of {name!r} {error}"
        else:
            found.programs[key], told["mean"] = inputs, {"program": key}
        found.effects.append(told)
    return found


def _recorded(fit: Fit, fitted: Fitted, inputs: Sequence[Input], kind: str) -> Tensor:
    """The program of a function, as bytes."""
    from torch.export import Dim, export, save

    data, held = fitted.data, {**fit.more, **fit.draws}
    number = {"draws": Dim("draws"), "rows": Dim("rows")}
    number |= {plate: Dim(f"groups_{k}") for k, plate in enumerate(data.plates)}
    given, shapes = list[Tensor](), list[dict[int, Any]]()
    few = torch.arange(min(3, data.n_rows), device=data.device)
    part = data.take(few if len(few) == 3 else few.new_zeros(3))
    for table, name, axes in inputs:
        if table == "v":
            x = held[name].flatten(0, 1)
            x = x[np.resize(np.arange(len(x)), 3)]
            plate = fitted.model.latents[name].plate
            if plate is not None and x.shape[1] < 2:
                x = torch.cat([x, x], 1)
            shapes.append({0: number["draws"]} | ({1: number[str(plate)]} if 1 in axes else {}))
        else:
            x = part[name]
            shapes.append({0: number["rows"]})
        given.append(x.contiguous())
    module = _Recorded(fitted, inputs, kind)
    try:
        program = export(module, (given,), dynamic_shapes=(shapes,), strict=False)
    except HiertorchError:
        raise
    except Exception as error:  # of torch's, and of the model's own code
        reason = " ".join(str(error).split())[:SHOWN]
        raise ModelError(f"torch.export says {type(error).__name__}: {reason}") from error
    file = io.BytesIO()
    save(program, file)
    return torch.from_numpy(np.frombuffer(file.getvalue(), np.uint8).copy())

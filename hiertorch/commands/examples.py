"""`hiertorch examples`: lists the ready configs, and writes them."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import hiertorch
from hiertorch.commands.program import Words, columns, status
from hiertorch.errors import ConfigError, RunFolderError

PACKAGE = Path(hiertorch.__file__).parent
CONFIGS = next((folder for folder in (PACKAGE / "configs", PACKAGE.parent / "configs") if folder.is_dir()), None)
"""In an installed package, or at the top of a clone."""

WRITTEN = "configs"
"""The folder from which tables beside the configs have their paths."""

EXAMPLES = """\
  hiertorch examples                 lists them
  hiertorch examples radon cbpp      writes these two into configs/
  hiertorch examples all --out mine  writes all into mine/
  hiertorch train --config configs/radon.yaml

Those on data sets of R's packages need pip install 'hiertorch[examples]'.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0, 1 if a file can't be written, 2 if there is no such config."""
    return status(lambda: shown(_words(argv)))


def shown(asked: argparse.Namespace) -> int:
    """Lists, or writes."""
    known = {path.stem: path for path in sorted(CONFIGS.glob("*.yaml"))} if CONFIGS else {}
    if not known:
        raise RunFolderError(f"this installation has no configs: expected them in {PACKAGE / 'configs'}.")
    if not asked.names:
        width = max(map(len, known))
        for name, path in known.items():
            print(f"{name:{width}}  {first_words(path, columns() - width - 2)}")
        print("hiertorch examples NAME writes one of them into configs/, for hiertorch train --config.")
        return 0
    if unknown := [name for name in asked.names if name not in known and name != "all"]:
        from hiertorch.wording import closest

        raise ConfigError(
            f"there is no example {unknown[0]!r}.{closest(unknown[0], known)} hiertorch examples lists them."
        )
    names = [*known] if "all" in asked.names else list(dict.fromkeys(asked.names))
    for name in names:
        for path in written(known[name], Path(asked.out), overwrite=asked.overwrite):
            print(path)
    verb = "compare" if names[0].startswith("compare_") else "train"
    print(f"hiertorch {verb} --config {Path(asked.out) / names[0]}.yaml fits the first.")
    return 0


def first_words(path: Path, columns: int) -> str:
    """What the comment at the top of a config begins with, as far as there is room."""
    lines = path.read_text().splitlines()
    comment = [line.removeprefix("#").strip() for line in lines[: next(i for i, x in enumerate(lines) if x[:1] != "#")]]
    text = " ".join(comment)
    if len(text) <= columns:
        return text
    return text[: columns - 4].rpartition(" ")[0].rstrip(",;:") + " ..."


def written(config: Path, out: Path, *, overwrite: bool) -> list[Path]:
    """The config, and the table beside it that it reads, in another folder, whose name its path has there.

    Raises:
        RunFolderError: if a file is there already, or can't be written.
    """
    tables = [path for path in sorted(config.parent.glob("*.csv")) if f" {WRITTEN}/{path.name}\n" in config.read_text()]
    text = config.read_text()
    for table in tables:
        text = text.replace(f" {WRITTEN}/{table.name}\n", f" {(out / table.name).as_posix()}\n")
    contents = {out / config.name: text} | {out / table.name: table.read_text() for table in tables}
    if not overwrite and (
        there := [path for path, new in contents.items() if path.exists() and path.read_text() != new]
    ):
        raise RunFolderError(f"{there[0]} is there already, and differs; give another --out, or --overwrite.")
    try:
        out.mkdir(parents=True, exist_ok=True)
        for path, new in contents.items():
            path.write_text(new)
    except OSError as error:
        raise RunFolderError(
            f"the folder {str(out)!r} can't be written ({error.strerror or error}); give another --out."
        ) from error
    return [*contents]


def _words(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Words("examples", "[NAME ...] [options]", "Lists the ready configs, or writes some of them.", EXAMPLES)
    parser.add_argument("names", nargs="*", metavar="NAME", help="of a config, or all; left out, they are listed")
    parser.add_argument("--out", default=WRITTEN, metavar="FOLDER", help=f"left out, {WRITTEN}")
    parser.add_argument("--overwrite", action="store_true", help="replace files that were changed")
    return parser.parse_args(argv)

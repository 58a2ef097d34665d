"""Where in its files a command line says something."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import yaml


def config_files(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """The config files of a command line, and its other words."""
    files = argparse.ArgumentParser(exit_on_error=False, add_help=False, allow_abbrev=False)
    files.add_argument("--config", action="append", default=[])
    known, rest = files.parse_known_args(argv)
    return known.config, rest


def place(argv: Sequence[str], key: Sequence[str]) -> str:
    """How a sentence on a key, such as ["sample", "draws"], begins: "fit.yaml, line 3: "; "" where an option of the
    command line says it, or nothing does.
    """
    try:
        files, rest = config_files(argv)
    except argparse.ArgumentError:
        return ""
    option = f"--{'.'.join(key)}"
    if any(word.partition("=")[0] == option or word.startswith(f"{option}.") for word in rest):
        return ""
    for path in reversed(files):
        if (line := _line(path, key)) is not None:
            return f"{path}, line {line}: "
    return ""


def keys_of(path: str) -> set[str]:
    """The uppermost keys of a config file, none of one that can't be read."""
    root = _composed(path)
    return {str(name.value) for name, _ in root.value} if isinstance(root, yaml.MappingNode) else set()


def _line(path: str, key: Sequence[str]) -> int | None:
    """The line on which a key stands, from 1 on."""
    node, line = _composed(path), None
    for part in key:
        if not isinstance(node, yaml.MappingNode):
            return None
        found = next(((name, value) for name, value in node.value if str(name.value) == part), None)
        if found is None:
            return None
        line, node = found[0].start_mark.line + 1, found[1]
    return line


def _composed(path: str) -> yaml.Node | None:
    try:
        return yaml.compose(Path(path).read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return None

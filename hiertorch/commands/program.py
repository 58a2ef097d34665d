"""What the programs have in common: a warning is a line, an error a sentence, and the exit status says which.

Nothing here is slow to import: `hiertorch --help` shows no delay.
"""

import argparse
import os
import re
import shutil
import sys
import textwrap
import warnings
from collections.abc import Callable, Sequence
from typing import NoReturn, TextIO

from hiertorch.errors import ConfigError, HiertorchError

INTERRUPTED = 130
"""Exit status after Ctrl-C."""

CLOSED = 141
"""Exit status where nobody reads any more what is printed, as of a program that SIGPIPE ends."""

WIDTH = 120
"""Columns of what is no terminal."""


def status(body: Callable[[], int]) -> int:
    """The exit status of a whole program: that of its body, 2 for words or a config that are wrong, 1 for any other
    error that this package raises, 130 after Ctrl-C, 141 where a pipe is closed.
    """
    warnings.formatwarning = lambda message, category, *_, **__: (
        paragraph(f"{category.__name__}: {message}", sys.stderr) + "\n"
    )
    try:
        done = body()
        sys.stdout.flush()
        return done
    except HiertorchError as error:
        print(paragraph(f"error: {error}", sys.stderr), file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr, flush=True)
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it ends
        return CLOSED


def columns() -> int:
    """That a table may take: of the terminal, or of COLUMNS, 120 at most."""
    return min(WIDTH, shutil.get_terminal_size((WIDTH, 24)).columns)


def paragraph(text: str, stream: TextIO, indent: str = "  ") -> str:
    """A sentence in lines that fit the terminal that it is written to; one line where that is none."""
    if not stream.isatty():
        return text
    lines = (
        textwrap.wrap(line, columns(), subsequent_indent=indent, break_on_hyphens=False, break_long_words=False)
        for line in text.splitlines()
    )
    return "\n".join(line for wrapped in lines for line in wrapped or [""])


class Words(argparse.ArgumentParser):
    """The words of a verb, whose help is short and has examples, and whose errors are sentences.

    Args:
        verb: its name.
        usage: what follows it.
        what: it does.
        examples: and what there is to say beside the options, as it is printed.
    """

    def __init__(self, verb: str, usage: str, what: str, examples: str) -> None:
        super().__init__(
            f"hiertorch {verb}", f"hiertorch {verb} {usage}", what, examples,
            formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, add_help=False,
        )  # fmt: skip
        self.add_argument("-h", "--help", action="help", help=argparse.SUPPRESS)  # whoever reads it knows it

    def error(self, message: str) -> NoReturn:
        """What argparse complains of, as a sentence.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(f"{self._sentence(message)} {self.prog} --help says more.")

    def _sentence(self, message: str) -> str:
        from hiertorch.wording import closest

        if unknown := re.match(r"unrecognized arguments: (\S+)", message):
            word = unknown[1].partition("=")[0]
            if word.startswith("-"):
                return f"there is no option {word}.{closest(word, self._option_string_actions)}"
            return f"{word!r} is a word too many; what has spaces in it stands in quotes."
        if lacking := re.match(r"the following arguments are required: (.*)", message):
            return f"{lacking[1].replace(', ', ' and ')}: not given; write {self.usage}."
        if choice := re.match(r"argument (\S+): invalid choice: (.*) \(choose from (.*)\)", message):
            return f"{choice[1]}: expected one of {choice[3].replace(chr(39), '')}, found {choice[2]}."
        return f"{message.removeprefix('argument ').rstrip('.')}."


def count(text: str) -> int:
    """A whole number above 0."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, found {text!r}")
    return int(text)


def seed(text: str) -> int:
    """A whole number from 0 on."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number, found {text!r}")
    return int(text)


def amount(text: str) -> float:
    """A number above 0."""
    try:
        found = float(text)
    except ValueError:
        found = 0.0
    if not 0 < found < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number above 0, found {text!r}")
    return found


def probability(text: str) -> float:
    """A number between 0 and 1."""
    try:
        found = float(text)
    except ValueError:
        found = 0.0
    if not 0 < found < 1:
        raise argparse.ArgumentTypeError(f"expected a number between 0 and 1, such as 0.89, found {text!r}")
    return found


def pairs(option: str, example: str, given: Sequence[str]) -> dict[str, str]:
    """Name -> value of words NAME=VALUE that an option was given.

    Raises:
        ConfigError: for one that is none, or a name that comes twice.
    """
    found = dict[str, str]()
    for word in given:
        name, equals, value = (part.strip() for part in word.partition("="))
        if not (name and equals and value):
            raise ConfigError(f"{option}: expected a name and a value, such as {example!r}, found {word!r}.")
        if name in found:
            raise ConfigError(f"{option}: {name} comes twice, as {found[name]!r} and {value!r}; leave one of them out.")
        found[name] = value
    return found

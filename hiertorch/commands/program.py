"""What the programs have in common: a warning is one line, an error a sentence, and the exit status says which."""

import sys
import warnings
from collections.abc import Callable

from hiertorch.errors import ConfigError, HiertorchError

INTERRUPTED = 130
"""Exit status after Ctrl-C."""


def status(body: Callable[[], int]) -> int:
    """The exit status of a whole program: that of its body, 2 for a config that is wrong, 1 for any other error that
    this package raises, 130 after Ctrl-C.
    """
    warnings.formatwarning = lambda message, category, *_, **__: f"{category.__name__}: {message}\n"
    try:
        return body()
    except HiertorchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr, flush=True)
        return INTERRUPTED

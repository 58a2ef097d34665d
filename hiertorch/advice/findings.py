"""Findings about data, and what all checks of data need."""

from typing import Literal, NamedTuple

from torch import Tensor

LEVELS = ("error", "warning", "note")
"""Of severity, the gravest first."""

COLUMNS = ("severity", "about", "finding", "advice")
"""Of the table of findings."""

LOOK = 200_000
"""Columns are summed up over so many rows, spread evenly over all."""

BROKEN = (ArithmeticError, LookupError, MemoryError, RuntimeError, TypeError, ValueError)
"""What a model may raise at draws from its prior, or at a few rows alone: a buffer with an entry for each row, a
distribution that can't be drawn from, parameters that overflow, memory that runs out.
"""


class Finding(NamedTuple):
    """Something that a model asks for and the data lack."""

    severity: Literal["error", "warning", "note"]
    about: str  # a grouping, column or latent
    finding: str  # what was found, with its numbers
    advice: str

    @property
    def sentence(self) -> str:
        """For logs and bars."""
        return f"{self.severity}: {self.about}: {self.finding} {self.advice}"


def differs_by_chain(scale: Tensor) -> bool:
    """Whether a scale `(chains, ...)` is learnt: each chain has its own."""
    return scale.dim() > 1 and bool((scale != scale[:1]).any())

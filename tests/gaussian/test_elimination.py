"""The worked example of the elimination's docstring."""

import doctest

from hiertorch.gaussian import elimination


def test_the_worked_example() -> None:
    failed, attempted = doctest.testmod(elimination)
    assert attempted > 10 and failed == 0

"""What every statistic of predictive checks keeps; a class that inherits names one and computes it by NumPy."""

import numpy as np
import pandas as pd
import pytest
import torch

import hiertorch as ht
from hiertorch.criticism.statistics import Statistic

SEED, DRAWS, ROWS = 20261128, 5, 60


class StatisticContract:
    """T is that of NumPy, of each response for itself; it leaves the responses as they are and needs what it names."""

    kind = "continuous"

    def statistic(self) -> Statistic:
        raise NotImplementedError

    def expected(self, y: np.ndarray, frame: pd.DataFrame) -> float:
        """T of one response `(rows,)`."""
        raise NotImplementedError

    def rows(self) -> tuple[pd.DataFrame, ht.Data, torch.Tensor]:
        """Rows with a grouping and a column, and responses `(draws, rows)`."""
        generator = np.random.default_rng(SEED)
        frame = pd.DataFrame({"x": generator.normal(size=ROWS), "school": generator.choice(list("abcde"), ROWS)})
        y = generator.normal(size=(DRAWS, ROWS)) if self.kind == "continuous" else generator.poisson(2.0, (DRAWS, ROWS))
        frame["y"] = y[0].astype(float)
        return frame, ht.Data.from_frame(frame, "y", groups=["school"]), torch.as_tensor(y, dtype=torch.float64)

    def test_is_that_of_numpy(self):
        frame, data, y = self.rows()
        found = self.statistic()(y, data)
        assert found.shape == (DRAWS,) and found.dtype == torch.float64
        np.testing.assert_allclose(found, [self.expected(row, frame) for row in y.numpy()], rtol=1e-10)

    def test_responses_stand_for_themselves_and_stay_as_they_are(self):
        _, data, y = self.rows()
        before, statistic = y.clone(), self.statistic()
        apart = torch.cat([statistic(row.unsqueeze(0), data) for row in y])
        torch.testing.assert_close(statistic(y, data), apart)
        assert torch.equal(y, before)

    def test_needs_are_said(self):
        statistic = self.statistic()
        statistic.check(self.kind, self.rows()[1])
        if statistic.groups or statistic.columns:
            with pytest.raises(ht.DataError, match=f"reads the .* {(*statistic.groups, *statistic.columns)[0]!r}"):
                statistic.check(self.kind, ht.Data([0.0, 1.0]))

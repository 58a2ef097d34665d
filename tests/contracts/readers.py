"""The contract of a reader of tables."""

import pandas as pd
import pytest

from hiertorch.data.sources import read_table
from hiertorch.errors import ConfigError


class ReaderContract:
    """How it is made, where it finds a table, and where there is none."""

    source = "pupils.csv"
    missing = "pupil.csv"

    def reader(self):
        raise NotImplementedError

    def test_a_table_with_one_row_an_observation(self):
        table = self.reader()(self.source)
        assert isinstance(table, pd.DataFrame) and len(table) > 0
        assert "rownames" not in table.columns and all(isinstance(name, str) for name in table.columns)

    def test_reading_twice_gives_the_same(self):
        pd.testing.assert_frame_equal(self.reader()(self.source), self.reader()(self.source))

    def test_a_table_that_is_not_there_is_named(self):
        with pytest.raises(ConfigError, match=self.missing):
            self.reader()(self.missing)

    def test_it_serves_in_place_of_the_built_in_ones(self):
        pd.testing.assert_frame_equal(read_table(self.source, self.reader()), self.reader()(self.source))

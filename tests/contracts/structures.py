"""The contract of a structure: that what it says of its columns is so, and that those who ask get an answer."""

import pytest
import torch

import hiertorch as ht
from hiertorch.model.reads import watched
from hiertorch.models.design import design_of, family_of


class StructureContract:
    """A subclass, whose name begins with `Test`, has a fixture `case`: the model, and the groups of simulated data."""

    @pytest.fixture
    def case(self):
        raise NotImplementedError

    @pytest.fixture
    def simulated(self, case):
        model, groups = case
        return ht.simulate_grouped(groups, 6, model=model, seed=7)

    def read(self, frame, like):
        return ht.Data.from_frame(frame, "y", list(like.plates), list(like.columns))

    def test_it_reads_the_columns_that_it_names_and_no_others(self, case, simulated):
        model, data = case[0], simulated.data
        design = design_of(model)
        named = [*design.predictors, *design.family.columns, *([] if design.offset is None else [design.offset])]
        named += [name for names in design.group_predictors.values() for name in names]
        read = watched(model, data, torch.Generator().manual_seed(0)).columns
        assert set(named) == read & set(data.columns) == set(data.columns)

    def test_simulated_data_have_the_levels_that_it_names(self, case, simulated):
        design, data = design_of(case[0]), simulated.data
        assert case[0].check(data) == []
        for plate, names in design.group_predictors.items():
            assert all(data.group_values(name, plate).shape == (data.size(plate),) for name in names)
        for parent, child in zip(design.nested, design.nested[1:], strict=False):
            assert data.nests(child, parent) and not data.nests(parent, child)
        assert all(torch.isfinite(data.label_numbers(plate)).all() for plate in design.times)

    def test_rows_are_its_familys_around_its_linear_predictor(self, case, simulated):
        model, data = case[0], simulated.data
        v = model.sample_prior(data, 4, torch.Generator().manual_seed(1))
        if (eta := model.linear_predictor(v, data)) is not None and (family := family_of(model)) is not None:
            rows = family.distribution(eta, v, data).log_prob(data.y)
            torch.testing.assert_close(rows.expand(4, data.n_rows), model.log_likelihood(v, data))

    def test_advice_looks_at_its_columns(self, case, simulated):
        model, frame = case[0], simulated.frame
        design = design_of(model)
        of_groups = [name for names in design.group_predictors.values() for name in names]
        constant = frame.assign(**dict.fromkeys([*design.predictors, *of_groups], 1.0))
        found = self.read(constant, simulated.data).check(model)
        said = set(found["about"][found["finding"].str.contains("it is 1 in all")])
        assert said == {*design.predictors, *of_groups}
        for plate, names in design.varying.items():
            averages = frame.assign(**{name: frame.groupby(plate)[name].transform("mean") for name in names})
            found = self.read(averages, simulated.data).check(model)
            assert set(names) <= set(found["about"][found["finding"].str.startswith("it varies within none")])

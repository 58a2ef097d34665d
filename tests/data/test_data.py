import copy
import datetime
import decimal
import enum
import pickle
import re
from functools import partial

import builders
import numpy as np
import pandas as pd
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import hiertorch.data.facts
import hiertorch.data.table
from hiertorch.data.table import Data
from hiertorch.errors import DataError, HiertorchError

refused = partial(builders.refused, DataError)


def frame_of_classes(rows=500, seed=0):
    """Rows of 30 classes in 6 schools, in random order, with a predictor of each level."""
    rng = np.random.default_rng(seed)
    classes = rng.permutation(np.concatenate([np.arange(30), rng.integers(30, size=rows - 30)]))
    schools = np.array(list("fcabed"))[classes % 6]
    frame = pd.DataFrame({"score": rng.normal(size=rows), "hours": rng.integers(9, size=rows), "class_no": classes})
    frame["school"] = schools
    frame["class"] = frame["school"] + "/" + frame["class_no"].astype(str)
    frame["income"] = frame["school"].map(dict(zip("abcdef", rng.normal(size=6), strict=True)))
    frame["night"] = rng.random(rows) < 0.5
    frame.index = pd.Index([f"row {i}" for i in range(rows)])
    return frame


@pytest.fixture
def frame():
    return frame_of_classes()


@pytest.fixture
def data(frame):
    return Data.from_frame(frame, "score", groups=["class", "school"], predictors=["hours", "income", "night"])


def small(**changes):
    arguments = {"y": [1.0, 2.0, 3.0], "groups": {"g": ["a", "b", "a"]}, "x": [4, 5, 6]} | changes
    return Data(**arguments)


# Columns, response and weights


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "values",
    [
        [1, 0, 1],
        (1.0, 0.0, 1.0),
        [True, False, True],
        np.array([1, 0, 1], dtype=">i2"),
        np.array([1, 0, 1], dtype=np.uint8)[::1],
        np.array([1, 9, 0, 9, 1], dtype=np.float32)[::2],
        torch.tensor([1, 0, 1], dtype=torch.int32),
        torch.tensor([True, False, True]),
        torch.tensor([1, 0, 1], dtype=torch.float16),
        pd.Series([1, 0, 1], index=[7, 8, 9]),
        pd.Series([1, 0, 1], dtype="Int8"),
        pd.Series([True, False, True], dtype="boolean"),
        pd.Series([1.0, 0.0, 1.0], dtype="Float32"),
        pd.Series([1, 0, 1], dtype="category"),
        pd.Series([1, 0, 1], dtype="Sparse[int]"),
        [decimal.Decimal(1), decimal.Decimal(0), decimal.Decimal(1)],
        pd.array([1, 0, 1], dtype="UInt16"),
        pd.Index([1, 0, 1]),
        range(1, -2, -1),
    ],
    ids=lambda values: f"{type(values).__name__}-{getattr(values, 'dtype', '')}",
)
def test_numbers_of_all_kinds_become_floating_tensors(values, dtype):
    expected = torch.tensor([1.0, 0.0, -1.0 if isinstance(values, range) else 1.0], dtype=dtype)
    made = Data(values, x=values, dtype=dtype)
    for tensor in (made.y, made.x):
        assert tensor.dtype == dtype
        torch.testing.assert_close(tensor, expected, rtol=0, atol=0)
    assert made.dtype == dtype
    assert made.device == torch.device("cpu")
    assert made.n_rows == 3


def test_a_callers_array_may_change_afterwards():
    y, x = np.arange(3.0), np.ones((3, 2))
    made = Data(y, x=x)
    y[:], x[:] = 9.0, 9.0
    assert made.y.tolist() == [0.0, 1.0, 2.0]
    assert made.x.tolist() == [[1.0, 1.0]] * 3


def test_a_callers_tensor_may_change_afterwards():
    given = torch.arange(6.0, dtype=torch.float64)
    weights = torch.ones(3, dtype=torch.float64)
    codes = torch.tensor([0, 1, 0])
    made = Data(given[:3], x=given[3:].view(3, 1), weights=weights, groups={"g": codes}, labels={"g": torch.arange(2)})
    wide = Data(given[:3].expand(4, -1))
    later = made.replace(y=given[:3], weights=weights)
    given -= 100.0
    weights += 1.0
    codes += 1
    for data in (made, later):
        assert (data.y.tolist(), data.weights.tolist(), data.x.flatten().tolist()) == ([0, 1, 2], [1] * 3, [3, 4, 5])
        assert data.g.tolist() == [0, 1, 0]
    assert wide.y.tolist() == [[0, 1, 2]] * 4
    assert wide.y.stride(0) == 0  # what chains share is stored once


def test_a_file_on_disk_may_change_afterwards(tmp_path):
    stored = np.memmap(tmp_path / "x", np.float64, "w+", shape=(3,))
    made = Data(stored, x=stored)
    stored[:] = 7.0
    assert made.y.tolist() == made.x.tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data.y.sub_(1.0),
        lambda data: data.x.clamp_(0.0, 0.5),
        lambda data: data.rows(1, 3).x.zero_(),
        lambda data: data.to(dtype=torch.float64).g.zero_(),
        lambda data: data.weights.mul_(2.0),
        lambda data: setattr(data, "y", data.y + 1.0),
        lambda data: data.columns.update(x=data.x + 1.0),
    ],
)
def test_data_that_were_changed_in_place_are_refused(change):
    made = small(weights=[1, 1, 1])
    made.check_unchanged()
    for other in (copy.deepcopy(made), pickle.loads(pickle.dumps(made)), made.take([0, 2]), made.rows(0, 2)):
        other.check_unchanged()
    change(made)
    with refused("was changed after the data were made"):
        made.check_unchanged()


def test_labels_of_a_caller_may_change_afterwards():
    for first in (0, 10**12):  # close together, and far apart
        codes, labels = np.array([1, 0, 2]), np.array([2, 1, 0, 9])
        codes[0] += first
        labels[1] += first
        made = Data([1.0] * 3, groups={"g": codes, "h": codes}, labels={"h": labels})
        codes[:], labels[:] = 7, 7
        assert made.labels["g"][made.g].tolist() == made.labels["h"][made.h].tolist() == [1 + first, 0, 2]


def test_columns_keep_trailing_axes():
    x = np.arange(24.0).reshape(4, 3, 2)
    made = Data(range(4), x=x, z=pd.DataFrame({"a": pd.array([1, 2, 3, 4], dtype="Int64"), "b": [5.0, 6.0, 7.0, 8.0]}))
    np.testing.assert_array_equal(made.x.numpy(), x)
    assert made.z.tolist() == [[1, 5], [2, 6], [3, 7], [4, 8]]


def test_response_and_weights_may_differ_between_chains():
    y, weights = np.arange(6.0).reshape(2, 3), np.array([[0.0, 1.0, 2.0], [1.0, 1.0, 1.0]])
    made = Data(y, weights=weights, x=[1, 2, 3])
    assert made.n_rows == 3
    np.testing.assert_array_equal(made.y.numpy(), y)
    np.testing.assert_array_equal(made.weights.numpy(), weights)
    assert Data(y, weights=weights[0]).weights.shape == (3,)
    assert Data(y[0], weights=weights).weights.shape == (2, 3)
    assert Data(y).weights is None


def test_one_row_and_one_group():
    made = Data([2.5], groups={"g": ["only"]}, x=[1])
    assert (made.n_rows, made.size("g"), made.counts("g").tolist(), made.g.tolist()) == (1, 1, [1], [0])
    assert made.group_values("x", "g").tolist() == [1.0]
    assert repr(made).endswith("groupings: g (1 group of 1 row)")


@pytest.mark.parametrize("y", [[], np.zeros((0,)), torch.zeros(2, 0), torch.zeros(0, 3)])
def test_data_without_rows_are_refused(y):
    with refused("the response 'y' has shape (", "at least one row"):
        Data(y)


def test_wrong_number_of_axes_is_refused():
    with refused("the response 'y' has shape ()", "expected (rows,) or (chains, rows)"):
        Data(1.0)
    with refused("the response 'y' has shape (1, 1, 3)"):
        Data(torch.zeros(1, 1, 3))
    with refused("column 'x' has shape ()", "expected (rows,) or (rows, *trailing)"):
        small(x=1.0)
    with refused("column 'x' has shape (3, 0)"):
        small(x=torch.zeros(3, 0))
    with refused("the weights have shape (1, 1, 3)", "expected (rows,) or (chains, rows)"):
        small(weights=torch.ones(1, 1, 3))
    with refused("grouping 'g' must be a sequence of labels", "found shape (3, 2)"):
        small(groups={"g": np.ones((3, 2))})
    with refused("grouping 'g' must be a sequence of labels", "found shape (3, 1)"):
        small(groups={"g": pd.DataFrame({"g": [1, 2, 3]})})
    with refused("grouping 'g' must be a sequence of labels", "found 'abc'"):
        small(groups={"g": "abc"})
    with refused("grouping 'g' must be a sequence of labels", "found 3"):
        small(groups={"g": 3})


def test_lengths_that_differ_are_named():
    with refused("column 'x': 2 rows, but the response has 3"):
        small(x=[1, 2])
    with refused("grouping 'g': 4 rows, but the response has 3"):
        small(groups={"g": list("abca")})
    with refused("the weights: 2 rows, but the response has 3"):
        small(weights=[1, 1])
    with refused("the weights have 4 chains and the response has 2"):
        Data(torch.zeros(2, 3), weights=torch.ones(4, 3))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_counted_and_located(bad):
    with refused("the response 'y': 2 values are NaN, missing or infinite in float64, first in row 1 (from 0)"):
        Data([[0.0, 1.0, bad], [0.0, bad, 2.0]])
    with refused("column 'x': 1 value is NaN, missing or infinite", "first in row 2"):
        small(x=[[0.0, 1.0], [0.0, 1.0], [0.0, bad]])
    with refused("the weights: 1 value is NaN, missing or infinite", "first in row 0"):
        small(weights=[bad, 1, 1])


@pytest.mark.parametrize(
    "values",
    [[1, None, 3], pd.array([1, None, 3]), pd.array([True, pd.NA, False], "boolean"), pd.Categorical([1, None, 3])],
)
def test_missing_numbers_are_located(values):
    with refused("column 'x': 1 value is NaN, missing or infinite in float64, first in row 1 (from 0)"):
        small(x=values)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_numbers_may_be_finite_and_their_sum_not(dtype):
    large = [torch.finfo(dtype).max] * 3
    assert Data(large, weights=large, x=large, dtype=dtype).x.tolist() == large


def test_a_number_too_large_for_float32_is_refused():
    with refused("column 'x': 1 value is NaN, missing or infinite in float32, first in row 0"):
        small(x=[1e300, 0, 0], dtype=torch.float32)


@pytest.mark.parametrize(
    "values",
    [
        np.array([1, 2, 2**53 + 1]),
        np.array([1, 2, -(2**62) - 1]),
        np.array([1, 2, 2**64 - 1], dtype=np.uint64),
        [1, 2, 10**20 + 1],
        [1.0, None, 2**53 + 1],
        [decimal.Decimal(1), decimal.Decimal(2), decimal.Decimal(2**53 + 1)],
        pd.array([1, 2, 2**53 + 1], dtype="Int64"),
        torch.tensor([1, 2, 2**53 + 1]),
    ],
)
def test_whole_numbers_that_would_be_rounded_are_refused(values):
    with refused("column 'x' has", "in row 2 (from 0), and float64 holds whole numbers beyond 2^53 rounded"):
        small(x=values)


def test_large_numbers_that_are_exact_are_taken():
    assert small(x=[2**53, 2**60, -(2**70)]).x.tolist() == [2.0**53, 2.0**60, -(2.0**70)]
    assert small(x=torch.tensor([2**53, 2**60, 0])).x.tolist() == [2.0**53, 2.0**60, 0.0]


def test_negative_weights_are_refused():
    with refused("the weights: 2 values are negative (such as -1), first in row 1 (from 0). Weights are 0 or more."):
        small(weights=[[1, 1, -1], [1, -0.5, 1]])
    assert small(weights=[0, 0, 0]).weights.tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("values", "found"),
    [
        (["1", "2", "3"], "str"),
        (["a", None, 1.0], "mixed"),
        ([1j, 0, 0], "complex128"),
        (torch.zeros(3, dtype=torch.complex64), "complex64"),
        (pd.date_range("2024-01-01", periods=3), "datetime64"),
        (pd.Series(["a", "b", "c"], dtype="category"), "string"),
        (pd.Series(["a", "b", "c"]), "string"),
    ],
)
def test_columns_that_are_not_numeric_are_refused(values, found):
    with refused("column 'x' is not numeric: found", found):
        small(x=values)
    with refused("the response", "is not numeric: found", found):
        Data(values)


def test_ragged_columns_are_refused():
    with refused("column 'x' can't be read as an array of numbers"):
        small(x=[[1], [2, 3], [4]])


@pytest.mark.parametrize("dtype", [torch.float16, torch.int64, torch.complex64])
def test_other_dtypes_are_refused(dtype):
    with refused("dtype must be torch.float32 or torch.float64; found", str(dtype)):
        small(dtype=dtype)
    with refused("dtype must be torch.float32 or torch.float64; found", str(dtype)):
        small().to(dtype=dtype)


def test_tensors_on_different_devices_are_refused():
    with refused("the tensors are on cpu and meta: move them to one device"):
        small(y=torch.zeros(3), x=torch.zeros(3, device="meta"))


# Names


@pytest.mark.parametrize("name", ["index", "to", "size", "rows", "columns", "n_rows", "name", "_cache", "__init__"])
def test_names_of_attributes_are_refused(name):
    with refused(f"column '{name}' has the name of an attribute of Data", f"columns={{'{name}': '{name}_'}}"):
        Data([1.0], **{name: [1.0]})
    with refused(f"grouping '{name}' has the name of an attribute of Data"):
        Data([1.0], groups={name: [1]})


def test_names_in_use_twice_are_refused():
    with refused("'g' is the name of a column and of a grouping"):
        small(g=[1, 2, 3])
    with refused("the name of grouping 3 is no string"):
        small(groups={3: [1, 2, 3]})
    with refused("labels= has 'h', which is no grouping; groupings: g"):
        small(labels={"h": ["a"]})


def test_any_name_is_read_by_brackets():
    made = Data([1.0, 2.0], **{"School name": [3, 4]})
    assert made["School name"].tolist() == [3, 4]
    assert "School name" in made
    assert "school" not in made


def test_columns_and_codes_are_attributes(data):
    assert data.hours is data["hours"] is data.columns["hours"]
    assert data.school is data["school"] is data.codes["school"]
    assert data.plates == ("class", "school")


def test_unknown_names_get_the_nearest():
    made, message = small(), "no column or grouping 'gg'; columns: x; groupings: g. Did you mean 'g'?"
    with refused(message):
        _ = made["gg"]
    with pytest.raises(AttributeError, match=re.escape(message)):
        _ = made.gg
    assert not hasattr(made, "gg")
    with refused("no column or grouping 'far'; columns: none; groupings: none."):
        Data([1.0])["far"]
    ask = [made.size, made.counts, lambda p: made.parents("g", p), lambda p: made.nests(p, p)]
    for method in [*ask, lambda p: made.group_values("x", p)]:
        with refused("no grouping 'gg'; groupings: g. Did you mean 'g'?"):
            method("gg")
    with refused("no column or grouping 'z'; columns: x"):
        made.group_values("z", "g")


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda made: pickle.loads(pickle.dumps(made))])
def test_copies_hold_the_same(copied, data):
    data.parents("class", "school")
    again = copied(data.take([4, 2, 2]))
    assert again.index.tolist() == ["row 4", "row 2", "row 2"]
    assert again.school.equal(data.school[[4, 2, 2]])
    assert again.parents("class", "school").equal(data.parents("class", "school"))
    with pytest.raises(AttributeError, match=r"no column or grouping 'shcool'.*Did you mean 'school'"):
        _ = again.shcool


def test_an_instance_without_contents_does_not_recurse():
    with pytest.raises(AttributeError, match="no column or grouping 'columns'"):
        _ = Data.__new__(Data).columns


def test_repr(data, frame):
    by_class, by_school = frame.groupby("class").size(), frame.groupby("school").size()
    assert repr(data).splitlines() == [
        "Data: 500 rows, response 'score'",
        "  columns: hours, income, night",
        f"  groupings: class (30 groups of {by_class.min()} to {by_class.max()} rows), "
        f"school (6 groups of {by_school.min()} to {by_school.max()} rows)",
    ]
    assert (
        repr(Data(torch.zeros(2, 5), weights=torch.ones(5)))
        == "Data: 5 rows, response 'y' for each of 2 chains, weighted"
    )
    wide = repr(Data([1.0], **{f"column{i}": [1] for i in range(100)}))
    assert wide.endswith(" ...")
    assert len(wide) < 200
    assert repr(small().take([0, 2, 0])).endswith("g (2 groups of 0 to 3 rows)")


# Groups and labels


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


DATES = [datetime.date(2024, 5, 1), datetime.date(2023, 1, 9), datetime.date(2024, 5, 1)]


@pytest.mark.parametrize(
    ("rows", "labels"),
    [
        ([3, 1, 3], [1, 3]),
        (["b", "a", "b"], ["a", "b"]),
        (("b", "a", "b"), ["a", "b"]),
        ([2.5, -1, 2.5], [-1, 2.5]),
        ([True, False, True], [False, True]),
        ([("s", 2), ("s", 1), ("s", 2)], [("s", 1), ("s", 2)]),
        ([("s", 2), ("s",), ("s", 2)], [("s",), ("s", 2)]),
        (pd.MultiIndex.from_tuples([("s", 2), ("s", 1), ("s", 2)]), [("s", 1), ("s", 2)]),
        (pd.Series([("s", 2), ("s", 1), ("s", 2)]), [("s", 1), ("s", 2)]),
        (DATES, [DATES[1], DATES[0]]),
        (pd.to_datetime(DATES), [pd.Timestamp(DATES[1]), pd.Timestamp(DATES[0])]),
        (pd.PeriodIndex(["2024Q2", "2023Q1", "2024Q2"], freq="Q"), [pd.Period("2023Q1"), pd.Period("2024Q2")]),
        (np.array([3, 1, 3], dtype=np.int8), [1, 3]),
        (np.array(["b", "a", "b"]), ["a", "b"]),
        (torch.tensor([3, 1, 3]), [1, 3]),
        ([torch.tensor(3), torch.tensor(1), torch.tensor(3)], [1, 3]),
        (pd.Series([3, 1, 3], dtype="Int64", index=[5, 6, 7]), [1, 3]),
        (pd.array(["b", "a", "b"], dtype="string"), ["a", "b"]),
        (pd.Categorical(["lo", "hi", "lo"], categories=["none", "hi", "lo"], ordered=True), ["hi", "lo"]),
        (pd.Series(["z", "a", "z"]).astype("category"), ["a", "z"]),
        # no order: by first appearance
        ([1, "a", 1], None),
        ([("s", 1), "s", ("s", 1)], None),
        ([Colour.BLUE, Colour.RED, Colour.BLUE], None),
    ],
    ids=str,
)
def test_labels_are_coded_in_order(rows, labels):
    made = small(groups={"g": rows})
    assert isinstance(made.labels["g"], pd.Index)
    assert not isinstance(made.labels["g"], pd.MultiIndex)
    assert made.labels["g"].tolist() == ([rows[0], rows[1]] if labels is None else labels)
    assert not any(isinstance(label, torch.Tensor) for label in made.labels["g"])
    assert made.g.dtype == torch.int64
    assert made.g.tolist() == ([0, 1, 0] if labels is None else [1, 0, 1])


@pytest.mark.parametrize("missing", [None, np.nan, pd.NaT, pd.NA, float("nan")])
@pytest.mark.parametrize("others", [["a", "b"], [1, 2], [pd.Timestamp("2024-01-01")] * 2, [("a", 1), ("b", 2)]])
def test_missing_labels_are_located(missing, others):
    with refused("grouping 'g': 2 values are missing (None, NaN or NaT), first in row 1 (from 0)"):
        Data([1.0] * 4, groups={"g": [others[0], missing, others[1], missing]})


def test_missing_categories_are_located():
    with refused("grouping 'g': 1 value is missing (None, NaN or NaT), first in row 2 (from 0)"):
        small(groups={"g": pd.Categorical(["a", "b", None])})


def test_labels_that_can_not_be_hashed_are_refused():
    with refused("grouping 'g' has a label that can't be one: unhashable type: 'list'"):
        small(groups={"g": [[1], [2], [3]]})


@pytest.mark.parametrize(
    ("rows", "labels"),
    [
        (["a", "b", "a"], ["c", "b", "a"]),
        ([("s", 1), ("s", 2), ("s", 1)], [("t", 1), ("s", 2), ("s", 1)]),
        (pd.Categorical(["a", "b", "a"]), pd.Categorical(["c", "b", "a"])),
        (torch.tensor([4, 5, 4]), np.array([6, 5, 4])),
        (pd.Series([4, 5, 4], dtype="Int64"), [6, 5, 4]),
        (DATES, [datetime.date(1999, 1, 1), DATES[1], DATES[0]]),
        ([1, "a", 1], [2.5, "a", 1]),
    ],
    ids=str,
)
def test_labels_given_keep_their_order_and_may_lack_rows(rows, labels):
    made = small(groups={"g": rows}, labels={"g": labels})
    assert not isinstance(made.labels["g"], pd.CategoricalIndex)
    assert made.labels["g"].tolist() == list(labels)
    assert made.g.tolist() == [2, 1, 2]
    assert made.size("g") == 3
    assert made.counts("g").tolist() == [0, 1, 2]


def test_labels_given_must_be_complete_and_unique():
    with refused("grouping 'g' has 'b' in row 1 (from 0), which is not in its labels="):
        small(labels={"g": ["a", "c"]})
    with refused("grouping 'g' has 1 in row 0", "not in its labels="):
        small(groups={"g": [1, 2, 3]}, labels={"g": ["1", "2", "3"]})
    with refused("labels= of grouping 'g' has 'a' twice"):
        small(labels={"g": ["a", "b", "a"]})
    with refused("labels= of grouping 'g': 1 value is missing"):
        small(labels={"g": ["a", "b", None]})


@pytest.mark.parametrize("dtype", ["i1", "u1", ">i4", "i8", "u8", "Int64"])
@pytest.mark.parametrize("step", [1, 3, 10**15])
@pytest.mark.parametrize("where", ["low", "zero", "high"])
def test_whole_numbers_are_coded_as_numpy_does(dtype, step, where):
    """Close together or far apart, at either end of what the dtype holds."""
    limits = np.iinfo(np.int64 if dtype == "Int64" else dtype)
    numbers = np.random.default_rng(0).permutation(np.repeat(np.arange(1, 30), 2)).astype(object) * step
    numbers += {"low": int(limits.min) - step, "zero": -3 * step, "high": int(limits.max) - 29 * step}[where]
    numbers = numbers[(numbers >= limits.min) & (numbers <= limits.max)]
    rows = pd.array(numbers, dtype=dtype) if dtype == "Int64" else np.array(numbers, dtype=dtype)
    labels, codes = np.unique(numbers, return_inverse=True)
    made = Data(np.zeros(len(numbers)), groups={"g": rows})
    assert made.labels["g"].tolist() == labels.tolist()
    assert made.labels["g"].dtype == rows.dtype
    assert made.g.dtype == torch.int64
    np.testing.assert_array_equal(made.g.numpy(), codes)


@pytest.mark.parametrize("head", [1, 7, 65_536])
@pytest.mark.parametrize("seed", range(5))
def test_groups_agree_with_pandas(seed, head, monkeypatch):
    monkeypatch.setattr(hiertorch.data.facts, "HEAD", head)
    frame = frame_of_classes(rows=200 + seed, seed=seed)
    data = Data.from_frame(frame, "score", groups=["class", "school", "class_no"])
    for plate in data.plates:
        groups = frame.groupby(plate)
        assert data.labels[plate].tolist() == list(groups.groups)
        np.testing.assert_array_equal(data.codes[plate].numpy(), groups.ngroup().to_numpy())
        np.testing.assert_array_equal(data.counts(plate).numpy(), groups.size().to_numpy())
        assert data.size(plate) == groups.ngroups
        for other in data.plates:
            assert data.nests(plate, other) == (groups[other].nunique() == 1).all()
            if data.nests(plate, other):
                labels = data.labels[other][data.parents(plate, other).numpy()]
                assert labels.tolist() == groups[other].first().tolist()
        if data.nests(plate, "school"):
            values = groups["income"].first().to_numpy()
            np.testing.assert_array_equal(data.group_values("income", plate).numpy(), values)


# Nesting and group-level values


@pytest.mark.parametrize("head", [1, 2, 3, 4, 65_536])
def test_nesting_refused_names_the_child_and_two_parents(head, monkeypatch):
    monkeypatch.setattr(hiertorch.data.facts, "HEAD", head)
    made = Data([1.0] * 5, groups={"school": list("aabbb"), "class": [2, 1, 3, 2, 1]})
    assert not made.nests("class", "school")
    with refused(
        "'class' does not nest in 'school': class 2 occurs in school 'a' and in school 'b'",
        'combine them: frame["class"] = frame["school"] + "/" + frame["class"].',
    ):
        made.parents("class", "school")
    assert made.nests("class", "class")
    assert made.parents("class", "class").tolist() == [0, 1, 2]


def test_parents_are_cached_and_long(data):
    parents = data.parents("class", "school")
    assert parents.dtype == torch.int64
    assert data.parents("class", "school") is parents
    assert data.counts("class") is data.counts("class")
    assert data.group_values("income", "school") is data.group_values("income", "school")


def test_the_parent_of_a_group_without_rows_is_unknown():
    groups = {"school": ["a", "b"], "class": [1, 2]}
    made = Data([1.0, 2.0], groups=groups, labels={"class": [1, 2, 3]}, x=[1, 2])
    assert not made.nests("class", "school")
    assert made.nests("class", "class")
    with refused("class 3 has no rows, so its school can't be known"):
        made.parents("class", "school")
    with refused("class 3 has no rows, so its value of 'x' can't be known"):
        made.group_values("x", "class")
    lonely = Data([1.0, 2.0], groups=groups, labels={"school": ["c", "a", "b"]})
    assert lonely.parents("class", "school").tolist() == [1, 2]


@pytest.mark.parametrize("head", [1, 3, 20])
@pytest.mark.parametrize("row", range(20))
def test_one_value_that_differs_is_found_in_any_row(row, head, monkeypatch):
    monkeypatch.setattr(hiertorch.data.facts, "HEAD", head)
    codes = np.arange(20) % 4
    x = 1.0 * codes
    x[row] = 9.0
    pair = f"9.0 and {row}.0" if row < 4 else f"{row % 4}.0 and 9.0"
    with refused(f"column 'x' varies within 'g': g {row % 4} has {pair}"):
        Data(x, groups={"g": codes}, x=x).group_values("x", "g")


def test_group_values_keep_trailing_axes_and_refuse_variation():
    x = np.array([[1.0, 2.0], [3.0, 4.0], [1.0, 2.0]])
    assert small(x=x).group_values("x", "g").tolist() == [[1.0, 2.0], [3.0, 4.0]]
    x[2, 1] = 5.0
    with refused("column 'x' varies within 'g': g 'a' has [1.0, 2.0] and [1.0, 5.0]", 'transform("mean")'):
        small(x=x).group_values("x", "g")
    with refused("column 'x' varies within 'g': g 'a' has 4.0 and 6.0"):
        small().group_values("x", "g")


# Frames


def test_from_frame_keeps_numeric_columns(frame):
    frame["when"] = pd.Timestamp("2024-01-01")
    frame["kind"] = pd.Categorical(["x"] * len(frame))
    frame["count"] = pd.array([3] * len(frame), dtype="Int64")
    frame["w"] = 2.0
    data = Data.from_frame(frame, response="score", groups=["school"], weights="w", dtype=torch.float32)
    assert list(data.columns) == ["hours", "class_no", "income", "night", "count"]
    for name, column in data.columns.items():
        np.testing.assert_array_equal(column.numpy(), frame[name].to_numpy(dtype=np.float32))
    np.testing.assert_array_equal(data.y.numpy(), frame["score"].to_numpy(dtype=np.float32))
    assert data.weights.tolist() == [2.0] * len(frame)
    assert (data.name, data.dtype, data.plates) == ("score", torch.float32, ("school",))
    assert data.index.equals(frame.index)


def test_from_frame_renames(frame):
    data = Data.from_frame(frame, "score", groups={"room": "class"}, predictors={"x": "hours", "groups_": "night"})
    assert data.plates == ("room",)
    assert data.x.tolist() == frame["hours"].tolist()
    assert list(data.columns) == ["x", "groups_"]
    assert Data.from_frame(frame, "score", groups="school", predictors="hours").plates == ("school",)
    both = Data.from_frame(frame, "score", groups={"hour": "hours"}, predictors=["hours"])
    assert both.hour.dtype == torch.int64
    assert Data.from_frame(frame, "score", predictors=[]).columns == {}
    for name in ("self", "groups", "cls", "School hours"):  # names of arguments are free
        named = Data.from_frame(frame.rename(columns={"hours": name}), "score")
        assert named[name].tolist() == frame["hours"].tolist()


def test_from_frame_drops_unused_categories(frame):
    frame["school"] = frame["school"].astype("category")
    some = frame[frame["school"] != "c"]
    assert Data.from_frame(some, "score", groups=["school"]).labels["school"].tolist() == list("abdef")


@pytest.mark.parametrize(
    "arguments",
    [
        {"response": "schol"},
        {"groups": ["schol"]},
        {"groups": {"g": "schol"}},
        {"predictors": ["schol"]},
        {"predictors": {"x": "schol"}},
        {"weights": "schol"},
    ],
)
def test_from_frame_suggests_columns(frame, arguments):
    with refused("the frame has no column 'schol'; its columns: score, hours,", "Did you mean 'school'?"):
        Data.from_frame(frame, **({"response": "score"} | arguments))


def test_from_frame_refuses(frame):
    with refused("a table is a pandas DataFrame, a mapping of columns, or one with the Arrow interface; found list"):
        Data.from_frame([1], "y")
    with refused("the columns make no table"):
        Data.from_frame({"y": [1, 2], "x": [1, 2, 3]}, "y")
    with refused("column 'score' has the name of the response"):
        Data.from_frame(frame, "score", predictors=["score"])
    with refused("'hours' is the name of a column and of a grouping", "groups={'hours_': 'hours'}"):
        Data.from_frame(frame, "score", groups=["hours"], predictors=["hours"])
    with refused("column 'size' has the name of an attribute of Data", "frame.rename(columns={'size': 'size_'})"):
        Data.from_frame(frame.assign(size=1), "score")
    with refused("column 'y' has the name of an attribute of Data"):
        Data.from_frame(frame.rename(columns={"hours": "y"}), "score")
    with refused("the name of column 0 is no string"):
        Data.from_frame(pd.DataFrame({"y": [1.0], 0: [1.0]}), "y")
    with refused("the frame has 2 columns 'hours': rename all but one"):
        Data.from_frame(pd.concat([frame, frame["hours"]], axis=1), "score")
    frame.iloc[[3, 5], frame.columns.get_loc("score")] = np.nan
    with refused("the response 'score': 2 values are NaN, missing", "first in row 3"):
        Data.from_frame(frame, "score")
    with refused("column 'school' is not numeric"):
        Data.from_frame(frame, "hours", predictors=["school"])


def test_index_counts_rows_without_a_frame():
    assert small().index.equals(pd.RangeIndex(3))
    assert small(y=pd.Series([1, 2, 3], name="x")).name == "y"


# Other rows, another response, another device


def test_take_agrees_with_pandas(data, frame):
    rows = np.random.default_rng(1).integers(len(frame), size=300)
    taken, expected = data.take(torch.from_numpy(rows)), frame.iloc[rows]
    assert taken.index.equals(expected.index)
    np.testing.assert_array_equal(taken.y.numpy(), expected["score"].to_numpy())
    np.testing.assert_array_equal(taken.income.numpy(), expected["income"].to_numpy())
    assert data.labels["class"][taken["class"].numpy()].tolist() == expected["class"].tolist()
    assert (taken.name, taken.dtype, taken.n_rows) == (data.name, data.dtype, 300)
    by_label = expected.groupby("class").size().reindex(data.labels["class"], fill_value=0)
    np.testing.assert_array_equal(taken.counts("class").numpy(), by_label.to_numpy())
    again = taken.take([7, 0])
    assert again.index.tolist() == expected.index[[7, 0]].tolist()
    assert again.y.tolist() == expected["score"].iloc[[7, 0]].tolist()


def test_taken_rows_keep_groups_nesting_and_group_values(data):
    data.counts("class")  # what is cached must not go along if the rows change it
    fold = data.take((data.school != 2).nonzero()[:, 0])
    assert fold.size("school") == 6
    assert fold.labels["school"] is data.labels["school"]
    assert fold.counts("school")[2] == 0
    assert fold.counts("class").sum() == fold.n_rows
    assert fold.parents("class", "school").equal(data.parents("class", "school"))
    assert fold.group_values("income", "school").equal(data.group_values("income", "school"))
    one_row = data.take([0])
    assert not one_row.nests("school", "class")  # true of the whole data set, whatever rows are left


def test_take_takes_weights_and_chains():
    made = Data(torch.arange(6.0).view(2, 3), weights=torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]), x=[7, 8, 9])
    taken = made.take(np.array([2, 0]))
    assert taken.y.tolist() == [[2, 0], [5, 3]]
    assert taken.weights.tolist() == [[3, 1], [6, 4]]
    assert taken.x.tolist() == [9, 7]
    other = made.take([1], weights=[0.5])
    assert other.weights.tolist() == [0.5]
    assert other.weights.dtype == made.dtype
    assert made.weights.shape == (2, 3)
    with refused("the weights: 2 rows, but the response has 1"):
        made.take([1], weights=[1, 1])
    with refused("the weights have 4 chains and the response has 2"):
        made.take([1], weights=torch.ones(4, 1))


@pytest.mark.parametrize("rows", [[], [True, False, True], [0.0], [[0]], 0])
def test_take_refuses_what_are_no_row_numbers(rows):
    with refused(
        "take needs row numbers, a long tensor (taken,) of at least one; found torch.", "mask.nonzero()[:, 0]"
    ):
        small().take(rows)


@pytest.mark.parametrize("before", ["all", "taken", "rows", "moved"])
def test_rows_are_views_that_agree_with_take(data, before):
    taken = torch.from_numpy(np.random.default_rng(1).integers(500, size=300))
    whole = {
        "all": data,
        "taken": data.take(taken),
        "rows": data.rows(100, 400),
        "moved": data.rows(100, 400).to(dtype=torch.float32),
    }[before]
    whole.counts("class")  # not those of fewer rows
    part, expected = whole.rows(40, 260), whole.take(torch.arange(40, 260))
    assert part.n_rows == 220
    assert part.index.equals(expected.index)
    assert repr(part) == repr(expected)
    for name in ("hours", "income", "class", "school"):
        assert part[name].equal(expected[name])
        assert part[name].data_ptr() == whole[name][40:].data_ptr()
    assert part.y.equal(expected.y)
    assert part.y.data_ptr() == whole.y[40:].data_ptr()
    for made in (part, pickle.loads(pickle.dumps(part))):
        assert made.labels["class"].equals(data.labels["class"])
        assert made.counts("class").equal(torch.bincount(part["class"], minlength=30))
        assert made.parents("class", "school").equal(data.parents("class", "school"))
        assert made.group_values("income", "school").equal(expected.group_values("income", "school"))
        assert made.take([5, 0]).index.equals(expected.index[[5, 0]])
        assert made.rows(1, 3).index.equals(expected.index[1:3])
        assert made.rows(1, 3).take([1]).y.equal(expected.y[2:3])
    assert data.rows(0, 1).nests("class", "school")
    assert not data.rows(0, 1).nests("school", "class")  # true of the whole data set


def test_rows_of_weights_and_chains():
    made = Data(torch.arange(6.0).view(2, 3), weights=torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]), x=[7, 8, 9])
    part = made.rows(1, 3)
    assert part.y.tolist() == [[1, 2], [4, 5]]
    assert part.weights.tolist() == [[2, 3], [5, 6]]
    assert part.x.tolist() == [8, 9]
    assert made.rows(0, 3).y.equal(made.y)


@pytest.mark.parametrize(("start", "stop"), [(-1, 2), (0, 4), (2, 2), (2, 1), (3, 4)])
def test_rows_refuses_what_are_no_rows(start, stop):
    with refused(f"rows(start, stop) needs 0 <= start < stop <= 3, the number of rows; found rows({start}, {stop})"):
        small().rows(start, stop)


def test_replace_exchanges_and_checks():
    made = small(weights=[1, 2, 3])
    new = made.replace(y=torch.arange(6).view(2, 3))
    assert new.y.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert new.y.dtype == made.dtype
    assert new.weights.tolist() == [1, 2, 3]
    assert new.x is made.x
    assert made.y.tolist() == [1, 2, 3]
    assert made.replace(weights=[[0, 1, 1], [1, 0, 1]]).weights.shape == (2, 3)
    with refused("the new response: 2 rows, but the response has 3"):
        made.replace(y=[1, 2])
    with refused("the response 'y': 1 value is NaN, missing or infinite in float64, first in row 1"):
        made.replace(y=[1, np.nan, 2])
    with refused("the weights: 1 value is negative (such as -1), first in row 2"):
        made.replace(weights=[1, 1, -1])
    with refused("the weights have 2 chains and the response has 3"):
        made.replace(weights=torch.ones(2, 3)).replace(y=torch.ones(3, 3))


def test_to_another_dtype(data):
    parents, values = data.parents("class", "school"), data.group_values("income", "school")
    moved = data.to(dtype=torch.float32)
    assert {moved.y.dtype, moved.hours.dtype, moved.group_values("income", "school").dtype} == {torch.float32}
    assert moved.school.dtype == moved.parents("class", "school").dtype == torch.int64
    assert moved.parents("class", "school").equal(parents)
    assert moved.labels["school"] is data.labels["school"]
    assert data.dtype == values.dtype == torch.float64
    assert moved.take([0]).group_values("income", "class").dtype == torch.float32


def test_to_without_a_change_keeps_the_tensors(data):
    same = data.to("cpu", torch.float64)
    assert same is not data
    assert same.y is data.y
    assert all(same[name] is data[name] for name in [*data.columns, *data.codes])
    assert data.to().y is data.y


@pytest.mark.parametrize("first", ["all", "take", "rows"])
def test_a_device_is_never_asked_for_values(data, first):
    """Fake tensors have no values: whatever reads one from the device fails."""
    expected = data.group_values("income", "school")
    rows = torch.tensor([3, 1, 1])
    with FakeTensorMode(allow_non_fake_inputs=True):
        moved = data.to("cuda:0")
        if first == "take":
            moved = moved.take(rows.to("cuda:0"), weights=torch.ones(2, 3, device="cuda:0"))
        elif first == "rows":
            moved = moved.rows(7, 10)
        answers = {
            "parents": (moved.parents("class", "school"), (30,), torch.int64),
            "same": (moved.parents("school", "school"), (6,), torch.int64),
            "counts": (moved.counts("class"), (30,), torch.int64),
            "values": (moved.group_values("income", "school"), expected.shape, torch.float64),
            "column": (moved.hours, (moved.n_rows,), torch.float64),
            "codes": (moved.school, (moved.n_rows,), torch.int64),
            "float32": (moved.to(dtype=torch.float32).y, (moved.n_rows,), torch.float32),
        }
        for name, (tensor, shape, dtype) in answers.items():
            assert (tensor.device.type, tuple(tensor.shape), tensor.dtype) == ("cuda", tuple(shape), dtype), name
        assert moved.device.type == "cuda"
        assert moved.n_rows == (500 if first == "all" else 3)
        assert moved.size("class") == 30
        assert moved.nests("class", "school")
        assert not moved.nests("school", "class")
        with refused("'school' does not nest in 'class'"):
            moved.parents("school", "class")
        if first != "take":
            part = data if first == "all" else data.rows(7, 10)
            assert repr(moved) == repr(part)
            assert moved.index.equals(part.index)


def test_series_of_another_order_are_refused():
    frame = pd.DataFrame({"y": [1.0, 2.0, 3.0], "x": [4.0, 5.0, 6.0], "g": list("aba")}, index=[7, 8, 9])
    turned = frame[::-1]
    assert Data(frame.y, x=frame.x, groups={"g": frame.g}, weights=frame.x).x.tolist() == [4.0, 5.0, 6.0]
    with refused("'x' has other row labels than 'y': 9, where 'y' has 7 (row 0 from 0)"):
        Data(frame.y, x=turned.x)
    with refused("'g' has other row labels than 'y'"):
        Data(frame.y, groups={"g": turned.g})
    with refused("'x' has other row labels than 'weights'"):
        Data([1.0, 2.0, 3.0], weights=frame.x, x=turned.x)
    assert Data(frame.y, x=turned.x.to_numpy()).x.tolist() == [6.0, 5.0, 4.0]
    made = Data.from_frame(frame, "y", ["g"], ["x"])
    with refused("'y' has other row labels than the data: 9"):
        made.replace(y=turned.y)
    assert made.replace(y=frame.x, weights=frame.y).y.tolist() == [4.0, 5.0, 6.0]
    assert made.take([2, 0]).replace(y=frame.x[::-2]).y.tolist() == [6.0, 4.0]


def test_what_is_masked_is_missing():
    masked = np.ma.masked_array([1.0, 2.0, 3.0], [0, 1, 0])
    with refused("the response 'y': 1 value is NaN, missing or infinite in float64, first in row 1"):
        Data(masked)
    with refused("grouping 'g': 1 value is missing"):
        Data([1.0, 2.0, 3.0], groups={"g": masked})
    open_mask = np.ma.masked_array([1, 2, 3], [0, 0, 0])
    assert Data(open_mask, groups={"g": open_mask}).labels["g"].tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    "tensor",
    [
        torch.ones(3).to_sparse(),
        torch.ones(3, device="meta"),
        torch.nested.nested_tensor([torch.ones(2), torch.ones(2)]),
        torch.ones(3, dtype=torch.complex64),
    ],
    ids=["sparse", "meta", "nested", "complex"],
)
def test_tensors_of_other_layouts_are_refused(tensor):
    with refused("has no values" if tensor.is_meta else "column 'x' is"):
        small(y=torch.ones(3, device=tensor.device), x=tensor)


# Arguments of other kinds

ODD = [None, 3, "x", b"x", [], {}, float("nan"), object(), (1,), ["y"], True, np.float64(2.5), torch.zeros(()), {1}]


@pytest.mark.parametrize("value", ODD, ids=lambda value: type(value).__name__)
def test_arguments_of_any_kind_give_a_sentence_or_work(value, frame):
    made = Data.from_frame(frame, "score", ["class"], ["hours"])
    calls = [
        lambda: Data(value),
        lambda: Data([1.0, 2.0], x=value),
        lambda: Data([1.0, 2.0], weights=value),
        lambda: Data([1.0, 2.0], groups=value),
        lambda: Data([1.0, 2.0], groups={"g": value}),
        lambda: Data([1.0, 2.0], groups={value if isinstance(value, str) else "g": ["a", "b"]}, labels=value),
        lambda: Data([1.0, 2.0], groups={"g": ["a", "b"]}, labels={"g": value}),
        lambda: Data([1.0, 2.0], dtype=value),
        lambda: Data.from_frame(value, "score"),
        lambda: Data.from_frame(frame, value),
        lambda: Data.from_frame(frame, "score", value),
        lambda: Data.from_frame(frame, "score", {"g": value}),
        lambda: Data.from_frame(frame, "score", ["class"], value),
        lambda: Data.from_frame(frame, "score", ["class"], {"x": value}),
        lambda: Data.from_frame(frame, "score", ["class"], ["hours"], weights=value),
        lambda: Data.from_frame(frame, "score", ["class"], ["hours"], labels=value),
        lambda: Data.from_frame(frame, "score", ["class"], ["hours"], dtype=value),
        lambda: made.read_rows(value),
        lambda: made[value],
        lambda: made.size(value),
        lambda: made.counts(value),
        lambda: made.parents(value, "class"),
        lambda: made.nests("class", value),
        lambda: made.group_values(value, "class"),
        lambda: made.group_values("hours", value),
        lambda: made.label_numbers(value),
        lambda: made.to(value),
        lambda: made.to(dtype=value),
        lambda: made.take(value),
        lambda: made.take([0, 1], weights=value),
        lambda: made.rows(value, 3),
        lambda: made.rows(0, value),
        lambda: made.replace(y=value),
        lambda: made.replace(weights=value),
        lambda: made.check(value),
    ]
    raw = []
    for number, call in enumerate(calls):
        try:
            call()
        except HiertorchError:
            continue
        except Exception as error:
            raw.append((number, repr(error)))
    assert raw == []


def test_times_keep_their_zero_when_later_rows_come_before_it():
    days = pd.date_range("2024-03-01", periods=10)
    first = Data([1.0, 2.0, 3.0], groups={"day": days[5:8]})

    def beside(fitted, labels):
        codes = {"day": np.arange(len(labels))}
        return Data.beside(fitted, torch.zeros(len(labels)).double(), {}, codes, {"day": labels})

    later = beside(first, days[[5, 6, 7, 3]])
    assert later.label_numbers("day").tolist() == [0.0, 1.0, 2.0, -2.0]
    assert beside(later, days[[3, 9]]).label_numbers("day").tolist() == [-2.0, 4.0]


def test_what_scales_priors_is_computed_of_the_data_that_were_fitted_first():
    first = Data([1.0, 2.0, 6.0], x=[0.0, 1.0, 5.0])
    later = Data.beside(first, torch.tensor([9.0]).double(), {"x": torch.tensor([100.0]).double()}, {}, {})
    mean = [data.computed_once(("column", "x"), lambda data: data["x"].mean()) for data in (later, first)]
    assert mean[0] == mean[1] == 2.0
    assert later.row_text(0) == "row 0 (from 0)" and later.whole_data is later

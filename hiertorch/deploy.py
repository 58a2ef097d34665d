"""Predictions from a file of `Posterior.export`, with NumPy alone: this one module can be copied to where there is
neither torch nor anything else of hiertorch.

    E[y_i | theta^(s)],  y_i ~ p(y_i | theta^(s)),  or P(y_i = k | theta^(s)),  for each exported draw s

    model = hiertorch.deploy.load("model.ht")
    model.predict({"x": [0.5, 1.0], "school": ["A", "one that is new"]}).summary

Note [A little language]
    A file is safetensors: numbers, and a header of JSON that says what is computed of them, as text such as
    `exp(v["mu"] + dot(v["beta"], x["common design"]))`. Text is parsed by `ast`, and evaluated only if each node is
    arithmetic, a comparison, a number, a list, an entry of one of `TABLES`, or a call of a function in this file. There
    is no other code in a file, but for models of a user's own class, whose likelihood is a program of `torch.export`:
    torch reads and runs that.

Names in it: `v` are draws of latents, `(draws, size, *event)`; `x` columns of rows, `(rows, ...)`; `g` codes of groups,
`(rows,)`; `c` and `t` columns of the user's table as numbers and as labels. SciPy is imported where a family needs it.
"""

import ast
import datetime
import io
import json
import math
import operator
import warnings
import zlib
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

VERSION = 1
"""Of the format; files of later versions are refused."""

TABLES = ("v", "x", "g", "c", "t")
NUMBERS = 4_000_000
"""Draws x (rows + groups) that are computed with at once."""

KINDS, NEW_GROUPS = ("mean", "response", "probability"), ("sample", "population", "error")
HALVINGS = 80
"""Of the interval in which a draw between two ends is sought."""

LARGEST = 2.0**62
"""Mean of counts that are drawn; a count of a larger one is the mean to nine digits."""

Array = np.ndarray


class DeployError(ValueError):
    """A file that can't be read, or rows that can't be predicted: what was expected, what was found, what to do."""


class Scope(dict[str, Any]):
    """Names of the little language, with the shape `(draws, rows)` of what is drawn, and the random numbers."""

    def __init__(self, names: Mapping[str, Any], shape: tuple[int, int], rng: np.random.Generator | None) -> None:
        super().__init__({"inf": math.inf, "pi": math.pi, **names})
        self.shape = shape
        self.rng: Any = rng

    def full(self, x: Any) -> Array:
        """A number for each draw and row."""
        return np.broadcast_to(x, self.shape)


# Functions of the language


def _levels(name: str, labels: Array, levels: Sequence[object]) -> Array:
    """Number of each label among known ones, `(rows,)`."""
    table = {level: k for k, level in enumerate(levels)}
    found = np.array([table.get(label, -1) for label in labels], np.int64)
    if (bad := np.flatnonzero(found < 0)).size:
        raise DeployError(
            f"column {name!r} has {labels[bad[0]]!r} in row {bad[0]} (from 0), which the rows that were fitted do not "
            f"have; their levels: {_listed(levels)}."
        )
    return found


def _level(name: str, labels: Array, levels: Sequence[object], level: object) -> Array:
    """1 in rows of a level, known by its text."""
    return (_levels(name, np.array([str(x) for x in labels], object), levels) == levels.index(level)).astype(float)


def _cut(x: Array, breaks: Sequence[float], right: bool, lowest: bool, names: Sequence[str]) -> Array:
    """The name of the interval that each number lies in, (a, b] or [a, b), the first with its lower end if `lowest`."""
    edges = np.asarray(breaks, np.float64)
    at = np.searchsorted(edges, x, "left" if right else "right") - 1
    at = np.where(x == edges[0], 0, at) if lowest else at
    if (bad := np.flatnonzero((at < 0) | (at >= len(names)))).size:
        raise DeployError(f"cut() has no interval for {x[bad[0]]:g}: its breaks go from {edges[0]:g} to {edges[-1]:g}.")
    return np.array([names[k] for k in at], object)


def _products(*parts: Array) -> Array:
    """Products of each column of one with each of the next, `(rows, columns)`."""
    found = _matrix(parts[0])
    for part in parts[1:]:
        found = (found[:, :, None] * _matrix(part)[:, None, :]).reshape(len(found), -1)
    return found


def _matrix(x: Array) -> Array:
    return x[:, None] if x.ndim == 1 else x


def _poly(x: Array, alphas: Sequence[float], norms: Sequence[float]) -> Array:
    """Polynomials that were orthogonal in the fitted rows, by their recursion, `(rows, degree)`."""
    p = [np.ones(len(x))]
    for i, alpha in enumerate(alphas):
        p.append((x - alpha) * p[i] - (norms[i] / norms[i - 1] * p[i - 1] if i else 0.0))
    return np.column_stack([p[k] / math.sqrt(norms[k]) for k in range(1, len(p))])


def _piecewise(x: Array, breaks: Sequence[float], coefficients: Any) -> Array:
    """Columns of splines as polynomials between breaks, `(degree + 1, pieces, columns)`, the outer ones beyond."""
    c, edges = np.asarray(coefficients, np.float64), np.asarray(breaks, np.float64)
    at = np.clip(np.searchsorted(edges, x, "right") - 1, 0, c.shape[1] - 1)
    found, d = c[0, at], (np.asarray(x, np.float64) - edges[at])[:, None]
    for row in c[1:]:
        found = found * d + row[at]
    return found


def _effects(v: Array, codes: Array, design: Array, entries: Sequence[int]) -> Array:
    """Sum over entries k of v[:, group of the row, k] design[:, k], `(draws, rows)`."""
    return sum((v[:, codes, k] * design[:, k] for k in entries), start=np.zeros(()))


def _blocks(size: int, *parts: Any) -> Array:
    """Roots of correlations `(draws, 1, k, k)` at their places, and ones elsewhere: `(draws, 1, size, size)`."""
    starts, roots = parts[::2], parts[1::2]
    whole = np.tile(np.eye(size), (len(roots[0]), 1, 1, 1))
    for start, root in zip(starts, roots, strict=True):
        stop = start + root.shape[-1]
        whole[..., start:stop, start:stop] = root
    return whole


def _pair(rho: Array) -> Array:
    """Root of a correlation matrix of two, `(..., 2, 2)`."""
    rows = np.stack([np.ones_like(rho), np.zeros_like(rho), rho, np.sqrt(1.0 - rho**2)], -1)
    return rows.reshape(*rho.shape, 2, 2)


def _expit(x: Array) -> Array:
    e = np.exp(-np.abs(x))
    return np.where(np.asarray(x) >= 0, 1.0, e) / (1.0 + e)


def _cumulative(below: Array, above: Array) -> Array:
    """P(y = k) from F and 1 - F at ascending thresholds, `(..., K - 1)`, in the tail in which both are smaller."""
    lower = below[..., 1:] <= above[..., :-1]
    middle = np.where(lower, below[..., 1:] - below[..., :-1], above[..., :-1] - above[..., 1:])
    return np.concatenate([below[..., :1], middle, above[..., -1:]], -1)


def _stopping(below: Array, above: Array) -> Array:
    """P(y = k) where each threshold is a step at which a row stops."""
    ones = np.ones_like(below[..., :1])
    return np.concatenate([below, ones], -1) * np.concatenate([ones, np.cumprod(above, -1)], -1)


def _softmax(x: Array) -> Array:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def _inserted(x: Array, at: int) -> Array:
    """With 0 in one more place of the last axis."""
    return np.insert(x, at, 0.0, -1)


def _dot(v: Array, *columns: Array) -> Array:
    """Coefficients `(draws, 1, K)` of columns, one matrix or one each; `(draws, 1, entries, K)` gives entries last."""
    x = columns[0] if columns[0].ndim == 2 else np.stack(columns, -1)
    return v[:, 0] @ x.T if v.ndim == 3 else np.moveaxis(v[:, 0] @ x.T, 1, 2)


FUNCTIONS: dict[str, Callable[..., Any]] = {
    name: getattr(np, name)
    for name in (
        *("abs", "arccos", "arcsin", "arctan", "ceil", "cos", "cosh", "exp", "expm1", "floor", "isfinite", "log"),
        *("log10", "log1p", "log2", "logaddexp", "maximum", "minimum", "mod", "power", "round", "sign", "sin", "sinh"),
        *("sqrt", "square", "tan", "tanh", "where"),
    )
} | {
    "across": lambda v: v[..., None, :],
    "adjacent": lambda x: _softmax(_inserted(-np.cumsum(x, -1), 0)),
    "array": lambda values: np.asarray(values, np.float64),
    "at": lambda v, *codes: v[(slice(None), *codes)],
    "blocks": _blocks,
    "coded": lambda name, labels, levels, matrix: np.asarray(matrix, np.float64)[_levels(name, labels, levels)],
    "cumulative": _cumulative,
    "cut": _cut,
    "dot": _dot,
    "effects": _effects,
    "entry": lambda v, k: v[..., k],
    "expit": _expit,
    "gaps": lambda cuts, eta: cuts - eta[..., None],
    "inserted": _inserted,
    "interaction": lambda *labels: np.array([".".join(map(str, row)) for row in zip(*labels, strict=True)], object),
    "is_one": lambda labels, values: np.array([label in values for label in labels], np.float64),
    "level": _level,
    "joined": lambda first, others: np.concatenate([first[..., None], others], -1),
    "last": lambda *parts: np.stack(np.broadcast_arrays(*parts), -1),
    "numbers": lambda values: np.array([float(x) for x in values], np.float64),
    "pair": _pair,
    "piecewise": _piecewise,
    "place": lambda name, labels, levels: _levels(name, labels, levels) + 1.0,
    "poly": _poly,
    "powers": lambda x, degree: np.column_stack([np.power(x, k) for k in range(1, degree + 1)]),
    "products": _products,
    "renamed": lambda name, labels, levels, names: np.array(names, object)[_levels(name, labels, levels)],
    "rest": lambda v, start: v[..., start:],
    "softmax": _softmax,
    "stopping": _stopping,
    "wide": lambda v: v[..., None],
    "weighted": lambda p: p @ np.arange(p.shape[-1], dtype=np.float64),
}
"""What is computed without chance."""

SPECIAL = ("betainc", "gammainc", "gammaincc", "gammaln", "log_ndtr", "ndtr", "owens_t", "stdtr")
"""SciPy's, which is imported when one of them is called."""

IN_SCOPE: dict[str, Callable[..., Any]] = {
    "beta": lambda s, a, b: s.rng.beta(s.full(a), s.full(b)),
    "binomial": lambda s, n, p: s.rng.binomial(s.full(n).astype(np.int64), np.clip(s.full(p), 0.0, 1.0)).astype(float),
    "category": lambda s, p: (s.rng.random((*s.shape, 1)) > np.cumsum(p[..., :-1], -1)).sum(-1).astype(float),
    "columns": lambda s, *parts: np.concatenate(
        [_matrix(np.broadcast_to(p, s.shape[1]) if np.ndim(p) == 0 else np.asarray(p, float)) for p in parts], 1
    ),
    "full": lambda s, x: s.full(x),
    "exponential": lambda s: s.rng.exponential(size=s.shape),
    "gamma": lambda s, shape: s.rng.gamma(s.full(shape)),
    "normal": lambda s: s.rng.standard_normal(s.shape),
    "poisson": lambda s, rate: np.where(
        s.full(rate) < LARGEST, s.rng.poisson(np.minimum(s.full(rate), LARGEST)), s.full(rate)
    ),
    "student_t": lambda s, df: s.rng.standard_t(s.full(df)),
    "uniform": lambda s: s.rng.random(s.shape),
    "wald": lambda s, mean, shape: s.rng.wald(s.full(mean), s.full(shape)),
}
"""Draws, and what has a value for each row."""

OPERATORS: dict[type[ast.AST], Callable[..., Any]] = {
    **{ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv},
    **{ast.USub: operator.neg, ast.UAdd: operator.pos, ast.Eq: operator.eq, ast.NotEq: operator.ne},
    **{ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge},
    ast.Pow: lambda a, b: (float(a) if isinstance(a, int) else a) ** b,
}

# From the real line onto the numbers that a response can be, in which those of all sizes are near one another, and back
COORDINATES: dict[str, tuple[Callable[[Array], Array], Callable[[Array], Array]]] = {
    "real": (np.sinh, np.arcsinh),
    "positive": (np.exp, lambda y: np.log(np.maximum(y, 0.0))),
    "unit": (_expit, lambda y: np.log(np.clip(y, 0.0, 1.0)) - np.log1p(-np.clip(y, 0.0, 1.0))),
}


class Text:
    """An expression of the little language; a DeployError for what is none."""

    def __init__(self, text: str) -> None:
        try:
            self._node = ast.parse(text, mode="eval").body
        except (SyntaxError, ValueError, RecursionError) as error:
            raise DeployError(f"the file computes {text[:80]!r}, which is no expression: {error}.") from error
        for node in ast.walk(self._node):
            if not self._is_known(node):
                raise DeployError(
                    f"the file computes {ast.unparse(node)[:80]!r}, which this reader does not know: export the model "
                    "with this version of hiertorch, or take a newer hiertorch/deploy.py."
                )

    @staticmethod
    def _is_known(node: ast.AST) -> bool:
        if isinstance(node, ast.Call):
            known = {*FUNCTIONS, *SPECIAL, *IN_SCOPE, "within"}
            return isinstance(node.func, ast.Name) and node.func.id in known and not node.keywords
        if isinstance(node, ast.Subscript):
            table, entry = node.value, node.slice
            return isinstance(table, ast.Name) and table.id in TABLES and isinstance(entry, ast.Constant)
        if isinstance(node, ast.Compare):
            return len(node.ops) == 1
        if isinstance(node, ast.BinOp):  # of numbers: a list times a number, or text, would fill the memory
            sides = (node.left, node.right)
            return not any(isinstance(getattr(one, "value", getattr(one, "elts", None)), str | list) for one in sides)
        plain = (ast.UnaryOp, ast.Constant, ast.Name, ast.List, ast.Load, *OPERATORS)
        return isinstance(node, plain)

    def __call__(self, scope: Scope) -> Any:
        """Its value."""
        return self._of(self._node, scope)

    def _of(self, node: Any, scope: Scope) -> Any:
        if isinstance(node, ast.Constant):
            return node.value
        if isinstance(node, ast.Name):
            if node.id not in scope:
                raise DeployError(f"the file computes with {node.id!r}, which it does not say before.")
            return scope[node.id]
        if isinstance(node, ast.List):
            return [self._of(one, scope) for one in node.elts]
        if isinstance(node, ast.Subscript):
            table, entry = (getattr(node.value, "id", ""), getattr(node.slice, "value", ""))
            return scope[table][entry]
        if isinstance(node, ast.BinOp):
            return OPERATORS[type(node.op)](self._of(node.left, scope), self._of(node.right, scope))
        if isinstance(node, ast.UnaryOp):
            return OPERATORS[type(node.op)](self._of(node.operand, scope))
        if isinstance(node, ast.Compare):
            return OPERATORS[type(node.ops[0])](self._of(node.left, scope), self._of(node.comparators[0], scope))
        name = node.func.id
        if name == "within":
            return self._within(node.args, scope)
        given = [self._of(one, scope) for one in node.args]
        if name in IN_SCOPE:
            return IN_SCOPE[name](scope, *given)
        return (FUNCTIONS.get(name) or getattr(import_module("scipy.special"), name))(*given)

    def _within(self, nodes: Sequence[ast.AST], scope: Scope) -> Array:
        """A draw between two ends of what has F and 1 - F as functions of y: where these are what a uniform number
        says, in the tail in which both ends lie.
        """
        low, high = (scope.full(np.asarray(self._of(node, scope), np.float64)) for node in nodes[2:4])
        forward, back = COORDINATES[self._of(nodes[4], scope)]

        def tails(y: Array) -> tuple[Array, Array]:
            below, above = (self._of(node, Scope({**scope, "y": y}, scope.shape, scope.rng)) for node in nodes[:2])
            return below, above

        (below_low, above_low), (below_high, above_high) = tails(low), tails(high)
        left, u = below_high <= above_low, scope.rng.random(scope.shape)
        wanted = np.where(left, below_low + u * (below_high - below_low), above_high + u * (above_low - above_high))
        start, stop = (np.clip(back(end), -709.0, 709.0) for end in (low, high))
        for _ in range(HALVINGS):
            middle = 0.5 * (start + stop)
            below, above = tails(forward(middle))
            more = np.where(left, below < wanted, above > wanted)
            start, stop = np.where(more, middle, start), np.where(more, stop, middle)
        return np.clip(forward(0.5 * (start + stop)), low, high)


# The file


def load(path: Any) -> "Exported":
    """The model that `Posterior.export` wrote.

    Args:
        path: of the file, as text or `pathlib.Path`.

    Raises:
        DeployError: if there is no such file, it is damaged or something else, or of a later format.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise DeployError(f"can't read {path}: {error.strerror}. Give a file of posterior.export(path).") from error
    try:
        header, tensors = _read(content)
    except DeployError as error:
        raise DeployError(f"{path} {error}") from error
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError, MemoryError) as error:
        raise DeployError(
            f"{path} is no model that hiertorch exported, or it is damaged ({type(error).__name__}: {error}): export "
            "it again, or copy it again."
        ) from error
    return Exported(header, tensors)


def _read(content: bytes) -> tuple[dict[str, Any], dict[str, Array]]:
    """Header and numbers: eight bytes say how long the JSON is, which says where each tensor lies behind it."""
    size = int.from_bytes(content[:8], "little")
    if len(content) < 8 or size > len(content) - 8:
        raise ValueError(f"{len(content)} bytes are too few")
    parts: dict[str, Any] = json.loads(content[8 : 8 + size])
    told = parts.pop("__metadata__")
    if told["format"] != "hiertorch model":
        raise ValueError(f"its format is {told['format']!r} and not 'hiertorch model'")
    if int(told["version"]) > VERSION:
        raise DeployError(
            f"has format {told['version']}, and this reader knows up to {VERSION}: take a newer hiertorch/deploy.py."
        )
    if told.pop("crc32") != str(zlib.crc32(json.dumps(sorted(told.items())).encode())):
        raise ValueError("its header has changed since it was written")
    header = json.loads(told["header"])
    names, tensors = {"F64": "float64", "F32": "float32", "I64": "int64", "I32": "int32", "U8": "uint8"}, {}
    for name, part in parts.items():
        start, stop = (8 + size + at for at in part["data_offsets"])
        x = np.frombuffer(content[start:stop], names[part["dtype"]]).reshape(part["shape"])
        told_of = zlib.crc32(f"{x.dtype.name}{x.shape}".encode())
        if zlib.crc32(x.reshape(-1).view(np.uint8).data, told_of) != header["checksums"][name]:
            raise ValueError("its numbers have changed since they were written")
        tensors[name] = x
    if tensors.keys() != header["checksums"].keys():
        raise ValueError("some of its numbers are not there")
    return header, tensors


class Program:
    """A likelihood or prior of a user's own class, which torch runs."""

    def __init__(self, content: Array, inputs: Sequence[tuple[str, str, list[int]]]) -> None:
        try:
            torch: Any = import_module("torch")
            import_module("torch.export")
        except ImportError as error:
            raise DeployError(
                "this model is of a class of its own, whose likelihood torch computes: pip install torch."
            ) from error
        self._torch, self._inputs = torch, inputs
        self._call = torch.export.load(io.BytesIO(content.tobytes())).module()

    def __call__(self, scope: Scope) -> Any:
        """What it computes of draws, columns and codes; axes have 2 at least, since torch takes 1 for a constant."""
        torch, given = self._torch, []
        for table, name, axes in self._inputs:
            x = np.asarray(scope[table][name])
            for axis in axes:
                width = [(0, max(0, 2 - n) if k == axis else 0) for k, n in enumerate(x.shape)]
                x = np.pad(x, width, "edge" if x.size else "constant")
            given.append(torch.from_numpy(np.array(x)))
        torch.manual_seed(int(scope.rng.integers(2**31)))
        with torch.no_grad():
            found = self._call(given)
        draws, rows = scope.shape
        if isinstance(found, torch.Tensor):
            return found.numpy()[:draws, :rows]
        return tuple(x.numpy()[:draws] for x in found)


# Rows


class Rows:
    """A user's table: a mapping of columns, a list of records, or anything with `columns` and columns by name."""

    def __init__(self, table: Any) -> None:
        if isinstance(table, Sequence) and not isinstance(table, str) and all(isinstance(x, Mapping) for x in table):
            every = dict.fromkeys(name for row in table for name in row)
            table = {name: [row.get(name) for row in table] for name in every}
        names: Any = table if isinstance(table, Mapping) else getattr(table, "columns", None)
        if names is None:
            raise DeployError(
                f"rows are a frame, a mapping of columns, or a list of records; found {type(table).__name__}."
            )
        columns = {name: table[name] for name in names}
        sizes = {len(x) for x in columns.values() if _is_column(x)} or ({1} if columns else set[int]())
        if len(sizes) != 1 or 0 in sizes:
            raise DeployError(f"rows have columns of one length, 1 or more; found lengths {sorted(sizes)}.")
        self.number = sizes.pop()
        self._columns = {name: x if _is_column(x) else [x] * self.number for name, x in columns.items()}

    def _column(self, name: str) -> Array:
        if name not in self._columns:
            raise DeployError(f"the rows have no column {name!r}; their columns: {_listed(self._columns)}.")
        found = self._columns[name]
        try:
            values = np.asarray(found)
            if values.ndim != 1 or values.dtype.kind in "US":
                raise ValueError
        except ValueError:
            values = np.empty(self.number, object)
            values[:] = [*found]
        return values

    def _refuse(self, name: str, missing: Array) -> None:
        if missing.any():
            raise DeployError(f"column {name!r} lacks a value in row {int(np.argmax(missing))} (from 0).")

    def of(self, read: Callable[[str], Array]) -> Mapping[str, Array]:
        """All columns, read by `numbers` or `labels` when they are asked for."""
        return Lazy(read)

    def numbers(self, name: str) -> Array:
        """A column of numbers, in their own type."""
        values = self._column(name)
        if values.dtype.kind == "O":
            self._refuse(name, np.array([*map(_is_missing, values)], bool))
            texts = [k for k, x in enumerate(values) if isinstance(x, str | bytes)]
            try:
                values = np.array([x.item() if isinstance(x, np.generic) else x for x in values])
            except ValueError:
                texts = texts or [0]
            if texts or values.dtype.kind not in "biuf" or values.shape != (self.number,):
                row = texts[0] if texts else 0
                raise DeployError(
                    f"column {name!r} holds numbers in the rows that were fitted, and {self._column(name)[row]!r} in "
                    f"row {row} (from 0) of these: recode it."
                )
        if values.dtype.kind not in "biuf":
            raise DeployError(f"column {name!r} holds numbers in the rows that were fitted; found {values.dtype}.")
        self._refuse(name, np.isnan(values))
        return values

    def labels(self, name: str) -> Array:
        """A column of labels, as Python has them."""
        values = self._column(name)
        self._refuse(name, np.array([*map(_is_missing, values)], bool))
        if wrong := [row for row, x in enumerate(values) if not isinstance(x, Hashable) or isinstance(x, tuple)]:
            raise DeployError(
                f"column {name!r} has {values[wrong[0]]!r} in row {wrong[0]} (from 0), which is no label."
            )
        found = np.empty(self.number, object)
        found[:] = [_label(x) for x in values]
        return found


class Lazy(dict[str, Any]):
    """Columns that are read when they are asked for."""

    def __init__(self, read: Callable[[str], Array]) -> None:
        super().__init__()
        self._read = read

    def __missing__(self, name: str) -> Array:
        self[name] = self._read(name)
        return self[name]


def _is_column(x: Any) -> bool:
    """Whether it has a value for each row, and is none itself."""
    return hasattr(x, "__len__") and not isinstance(x, str | bytes | Mapping | set) and np.ndim(x) != 0


def _is_missing(x: Any) -> bool:
    """None, NaN, NaT and the like."""
    try:
        return x is None or bool(x != x)
    except (TypeError, ValueError):  # of pandas' NA, and of what is no single value
        return type(x).__name__ == "NAType"


def _label(x: object) -> object:
    """A label of Python's own types; times as NumPy has them, in nanoseconds."""
    if isinstance(x, np.datetime64 | datetime.date):
        return np.datetime64(x).astype("M8[ns]")
    return x.item() if isinstance(x, np.generic) else x


def _known(content: Array) -> list[object]:
    """Labels of a grouping, as the file has them."""
    held = json.loads(content.tobytes())
    if "times" in held:
        return [*np.array(held["times"], np.int64).view(f"M8[{held['unit']}]").astype("M8[ns]")]
    return [next(iter(x.values())) if isinstance(x, dict) else x for x in held["labels"]]


def _key(label: object) -> str:
    """What is the same for spellings of a label: 12, 12.0, "12" and "012", or "A" and "a "."""
    text = str(label).strip().casefold()
    try:
        return repr(float(text))
    except ValueError:
        return text


def _listed(values: Any, most: int = 10) -> str:
    texts = [repr(x) for x in values]
    return ", ".join(texts[:most]) + (f" and {len(texts) - most} more" if len(texts) > most else "")


# The model


@dataclass(frozen=True)
class Prediction:
    """What a model says about rows.

    Attributes:
        draws: E[y | latents] or simulated y, `(draws, rows)`; probabilities `(draws, rows, categories)`.
        summary: "mean", "sd" and the ends of the equal-tailed interval, such as "eti89_lb" -> `(rows,)`, or
            `(rows, categories)`.
        new: grouping -> labels that the fitted rows do not have.
        categories: labels, where there are probabilities.
    """

    draws: Array
    summary: dict[str, Array]
    new: dict[str, list[object]]
    categories: list[object]


class Exported:
    """A model from a file; `load` makes it.

    Attributes:
        formula, family, response: what was fitted, in words.
        needs: columns that rows have to have.
        groups: grouping -> labels of its groups that were fitted.
        categories: labels of the response's, if it has them.
        n_draws: draws of the posterior in the file.
    """

    def __init__(self, header: Mapping[str, Any], tensors: Mapping[str, Array]) -> None:
        self.formula, self.family, self.response = header["formula"], header["family"], header["response"]
        self.needs, self.categories, self.n_draws = header["needs"], header["categories"], header["draws"]
        self.groups = {plate: _known(tensors[f"labels/{k}"]) for k, plate in enumerate(header["groups"])}
        self._codes = {plate: {label: k for k, label in enumerate(known)} for plate, known in self.groups.items()}
        self._of, self._seed = header["groups"], header["seed"]
        self._latents = {name: (tensors[f"draws/{name}"], plate) for name, plate in header["latents"].items()}
        self._columns = {name: Text(text) for name, text in header["columns"].items()}
        self._checks, programs = header["checks"], header["programs"]
        self._facts = [(*told, tensors[f"facts/{k}"]) for k, told in enumerate(header["facts"])]

        def read(told: Any) -> Any:
            if isinstance(told, Mapping):
                return Program(tensors[told["program"]], programs[told["program"]])
            return None if told is None else Text(told)

        self._valid = read(header["valid"])
        self._lets = [(name, read(told)) for name, told in header["lets"]]
        self._outputs = {kind: read(told) for kind, told in header["outputs"].items()}
        self._effects = [
            (one["name"], one["plate"], one["why"], [read(one[part]) for part in ("mean", "scale", "root")])
            for one in header["effects"]
        ]

    def __repr__(self) -> str:
        groups = "".join(f", {len(known)} of {plate!r}" for plate, known in self.groups.items())
        return f"Exported({self.formula!r}, {self.family}, {self.n_draws} draws{groups})"

    def predict(
        self,
        rows: Any,
        kind: str = "mean",
        new_groups: str | None = None,
        *,
        ci_prob: float = 0.89,
        seed: int | None = None,
        distinct: bool = False,
        normals: Mapping[str, Array] | None = None,
    ) -> Prediction:
        """E[y | latents] or simulated y of rows, for every draw, as `Posterior.predict` has it.

        Args:
            rows: a frame, a mapping of columns, or a list of records; columns that the model does not read are left.
            kind: "mean", "response", or "probability" of each category.
            new_groups: "sample" draws their effects from the population, "population" sets them to the mean of their
                prior, "error" refuses them; left out, "sample" with a warning that names them.
            ci_prob: probability within the interval.
            seed: of the random numbers; left out, one that the file says.
            distinct: take labels for new groups though known ones are spelt nearly so.
            normals: the standard normal numbers that make effects of new groups, latent -> `(draws, new groups,
                *event)`, new groups in the order in which rows name them; left out, they are drawn.

        Raises:
            DeployError: for columns that are missing or can't be read, levels and groups that can't be new.
        """
        for what, value, known in (("kind", kind, KINDS), ("new_groups", new_groups, (None, *NEW_GROUPS))):
            if value not in known:
                raise DeployError(f"{what} is one of {_listed(known)}; found {value!r}.")
        if not isinstance(ci_prob, int | float) or not 0.0 < ci_prob < 1.0:
            raise DeployError(f"ci_prob is between 0 and 1; found {ci_prob!r}.")
        if seed is not None and (not isinstance(seed, int | np.integer) or seed < 0):
            raise DeployError(f"seed is a whole number from 0 on; found {seed!r}.")
        kind = "probability" if kind == "mean" and self._outputs["mean"] is None and self.categories else kind
        output = self._outputs[kind]
        if output is None:
            has = [name for name, one in self._outputs.items() if one is not None]
            raise DeployError(f"kind={kind!r} is not known of {self.family}; this model has {_listed(has)}.")
        table, rng = Rows(rows), np.random.default_rng(self._seed if seed is None else seed)
        with np.errstate(all="ignore"):
            x = self._read(table, rng)
            codes, new, first = self._grouped(table, x, new_groups, distinct)
            chunk = max(1, NUMBERS // (table.number + sum(len(known) for known in new.values())))
            normals = self._given(normals or {}, new)
            parts = []
            for at in (slice(i, i + chunk) for i in range(0, self.n_draws, chunk)):
                given = {name: z[at] for name, z in normals.items()}
                v, g = self._values(at, x, codes, new, first, rng, given, population=new_groups == "population")
                number = len(range(*at.indices(self.n_draws)))
                scope = Scope({"v": v, "x": x, "g": g}, (number, table.number), rng)
                for name, one in self._lets:
                    scope[name] = one(scope)
                self._check_valid(scope)
                found = np.asarray(output(scope), np.float64)
                shape = (number, table.number) + ((len(self.categories),) if kind == "probability" else ())
                parts.append(np.broadcast_to(found, shape))
            draws = np.concatenate(parts)
        if np.isnan(draws).any():
            raise DeployError(f"kind={kind!r} is not a number in some draws of {self.family}: take kind='response'.")
        ends = np.quantile(draws, [0.5 - ci_prob / 2, 0.5 + ci_prob / 2], axis=0)
        names = [f"eti{int(ci_prob * 100)}_{end}" for end in ("lb", "ub")]
        summary = {"mean": draws.mean(0), "sd": draws.std(0, ddof=1), **dict(zip(names, ends, strict=True))}
        fresh = {plate: labels for plate, labels in new.items() if labels}
        return Prediction(draws, summary, fresh, self.categories if kind == "probability" else [])

    def _given(self, normals: Mapping[str, Array], new: Mapping[str, Sequence[object]]) -> dict[str, Array]:
        """Numbers that make effects of new groups, of all draws."""
        if not isinstance(normals, Mapping):
            raise DeployError(f"normals are a mapping, latent -> numbers; found {type(normals).__name__}.")
        plates, found = {name: plate for name, plate, *_ in self._effects}, dict[str, Array]()
        for name, given in normals.items():
            if name not in plates:
                raise DeployError(f"normals name {name!r}; effects of new groups are {_listed(plates)}.")
            z, draws = np.asarray(given, np.float64), self._latents[name][0]
            if z.shape != (expected := (len(draws), len(new[plates[name]]), *draws.shape[2:])):
                raise DeployError(f"normals of {name!r} have shape {z.shape}; expected {expected}.")
            found[name] = z
        return found

    def _read(self, table: Rows, rng: np.random.Generator) -> dict[str, Array]:
        """The columns of the model."""
        scope = Scope({"c": table.of(table.numbers), "t": table.of(table.labels)}, (1, table.number), rng)
        found = {}
        for name, text in self._columns.items():
            values = np.asarray(text(scope), np.float64)
            found[name] = np.broadcast_to(values, table.number) if values.ndim == 0 else values
            rows = found[name].reshape(table.number, -1)
            if (bad := np.flatnonzero(~np.isfinite(rows).all(1))).size:
                raise DeployError(f"{name!r} can't be computed in row {bad[0]} (from 0): it is no finite number there.")
        for name, check in self._checks:
            x = found[name]
            bad = np.flatnonzero(~(x > 0) if check == "positive" else (x < 0) | (x != np.round(x)))
            if bad.size:
                what = "above 0" if check == "positive" else "whole numbers, 0 or more"
                raise DeployError(f"column {name!r} has {x[bad[0]]:g} in row {bad[0]} (from 0), and is {what}.")
        return found

    def _grouped(
        self, table: Rows, x: Mapping[str, Array], new_groups: str | None, distinct: bool
    ) -> tuple[dict[str, Array], dict[str, list[object]], dict[str, Array]]:
        """Plate -> codes of rows, of which new groups stand behind the known ones; its new labels; their first rows."""
        codes, new, first = {}, {}, {}
        for plate, known in self._codes.items():
            parts = [table.labels(name) for name in self._of[plate]["of"]]
            labels = parts[0] if len(parts) == 1 else [":".join(map(str, row)) for row in zip(*parts, strict=True)]
            fresh = dict.fromkeys(label for label in labels if label not in known)
            places = {label: len(known) + k for k, label in enumerate(fresh)}
            codes[plate] = np.array([known.get(label, places.get(label, -1)) for label in labels], np.int64)
            new[plate] = [*fresh]
            first[plate] = np.array([np.argmax(codes[plate] == place) for place in places.values()], np.int64)
            if fresh and not self._of[plate]["new"]:
                raise DeployError(
                    f"grouping {plate!r} has new labels {_listed(fresh)}, and the model has no population from which "
                    f"they could be drawn; known ones: {_listed(known)}."
                )
            spelt = {_key(label): label for label in known} if fresh and not distinct else {}
            if alike := [(label, spelt[_key(label)]) for label in fresh if _key(label) in spelt]:
                raise DeployError(
                    f"{plate} {alike[0][0]!r} is {alike[0][1]!r} in the rows that were fitted, in another spelling or "
                    "type: write it as it was there, or say by distinct=True that it is another group."
                )
        self._check_facts(x, codes)
        if told := "; ".join(f"{plate} {_listed(labels, 5)}" for plate, labels in new.items() if labels):
            if new_groups == "error":
                raise DeployError(f"new_groups='error', and the rows have new groups: {told}.")
            if new_groups is None:
                warnings.warn(
                    f"the rows have groups that were not fitted, {told}: their effects are drawn from the population. "
                    "If that is meant, pass new_groups='sample'.",
                    stacklevel=3,
                )
        return codes, new, first

    def _check_valid(self, scope: Scope) -> None:
        """That rows have a likelihood in all draws."""
        valid = np.ones(scope.shape, bool) if self._valid is None else scope.full(self._valid(scope)).astype(bool)
        if (bad := np.flatnonzero(~valid.all(0))).size:
            raise DeployError(
                f"row {bad[0]} (from 0) has no likelihood in {1.0 - valid[:, bad[0]].mean():.2%} of the draws, since "
                f"{self.family} rows have no mean below 0: correct its columns, or leave it out."
            )

    def _check_facts(self, x: Mapping[str, Array], codes: Mapping[str, Array]) -> None:
        """That rows of one group agree on the group that it lies in, and on columns that explain it."""
        for plate, of, name, known in self._facts:
            values = codes[name] if of == "group" else x[name]
            every = np.concatenate([known, np.full(max(0, codes[plate].max() + 1 - len(known)), np.nan)])
            for row, (code, value) in enumerate(zip(codes[plate], values, strict=True)):
                if np.isnan(every[code]):
                    every[code] = value
                if every[code] != value:
                    raise DeployError(
                        f"row {row} (from 0) has another {name!r} than other rows of its group of {plate!r}, or than "
                        "the rows that were fitted: correct it, or give another group a label of its own."
                    )

    def _values(
        self,
        at: slice,
        x: Mapping[str, Array],
        codes: Mapping[str, Array],
        new: Mapping[str, Sequence[object]],
        first: Mapping[str, Array],
        rng: np.random.Generator,
        normals: Mapping[str, Array],
        *,
        population: bool,
    ) -> tuple[dict[str, Array], dict[str, Array]]:
        """Latents of some draws, of the groups in the rows alone, new ones last; and the rows' codes among these."""
        g, used = dict[str, Array](), dict[str, Array]()
        for plate, own in codes.items():
            before = len(self.groups[plate])
            used[plate] = np.unique(own[own < before]) if self._of[plate]["new"] else np.arange(before)
            local = np.searchsorted(used[plate], own)
            g[plate] = np.where(own < before, local, own - before + len(used[plate]))
        v = {n: d[at] if plate is None else d[at][:, used[plate]] for n, (d, plate) in self._latents.items()}
        for name, plate, why, told in self._effects:
            if not (number := len(new[plate])):
                continue
            if why:
                raise DeployError(f"grouping {plate!r} can have no new labels ({_listed(new[plate])}) here: {why}.")
            shape = (len(v[name]), number, *v[name].shape[2:])
            rows = first[plate]
            scope = Scope(
                {"v": v, "x": {n: c[rows] for n, c in x.items()}, "g": {p: c[rows] for p, c in g.items()}},
                shape[:2],
                rng,
            )
            mean, scale, root = (one and one(scope) for one in told)
            if isinstance(mean, tuple):  # of a program: of all groups before, too, or of one for all
                mean, root = (part if part.shape[1] == 1 else part[:, -number:] for part in mean)
                root, scale = (root, 1.0) if root.ndim == mean.ndim + 1 else (None, root)
            z = normals[name] if name in normals else rng.standard_normal(shape)
            z = np.zeros(shape) if population else z
            z = z if root is None else np.einsum("...ij,...j->...i", root, z)
            v[name] = np.concatenate([v[name], np.broadcast_to(mean + scale * z, shape)], 1)
        return v, g

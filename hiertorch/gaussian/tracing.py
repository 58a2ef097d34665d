"""What tensors depend on, and how: followed through all operations of torch that a piece of code runs.

Note [Tracing]
A model's priors and its likelihood are run once, as they are, on a few values. A mode of torch sees every operation and
notes for the memory that it writes what is known of it (`hiertorch.gaussian.operations`): so views, writes in place,
buffers and what code keeps between calls are followed as well. A second mode sees what leaves torch: a Python number, a
truth value that decides on a branch, an array of NumPy. From there on anything may depend on it, so that it counts as
an unknown function with jumps in all results. What no mode sees, such as an extension that reads memory on its own or
another thread, is left to the probes (`hiertorch.gaussian.probing`), to the comparison of densities and to the audit of
a run.

docs/decisions.md: Dependence follows from operations.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.overrides import TorchFunctionMode

from hiertorch.gaussian.operations import FRESH, Value, is_harmless, names, result, tensors_in
from hiertorch.gaussian.terms import CONSTANT, Atom, Term, added, joined, reads, shifted, unknown, unknown_function
from hiertorch.runtime.modes import OperationMode

METADATA = names(
    "dim ndimension numel nelement size stride storage_offset is_floating_point is_complex is_contiguous is_same_size "
    "is_signed is_conj is_neg is_inference is_pinned is_shared is_set_to is_tensor is_storage element_size get_device "
    "__len__ __hash__ type has_names result_type can_cast broadcast_shapes"
)
"""Functions that give Python values, but none that depend on a tensor's entries."""

MADE_OF_PYTHON = names("tensor as_tensor asarray new_tensor new tensor_split")
"""Functions that read tensors in lists, or at places of integers, without an operation that can be seen."""

OF_SELF = names("new_tensor new tensor_split")
"""Those of them that are methods of a tensor whose entries are not read in this way."""

BY_ENTRY = names("apply_ map_ map2_")
"""Functions that call Python for every entry, and write what it gives."""

PLAIN = (bool, int, str, type(None), torch.Size, torch.dtype, torch.device, torch.layout)
"""What attributes may be that tell nothing of a tensor's entries."""


class Trace:
    """Follows named tensors through what is run inside `with`.

    Args:
        chains: the length of the first axis of the named tensors.
        named: the tensors.
    """

    def __init__(self, chains: int, named: Mapping[str, Tensor]) -> None:
        self.chains, self.escaped, self.busy = chains, frozenset[str](), False
        self._values: dict[int, Value] = {}
        self._moved = set[str]()
        self._kept: list[Tensor] = []  # so that no memory is used twice
        for name, x in named.items():
            number = self._one_per_chain(x)
            self.note(x, Value(unknown(name, number=number), number, frozenset({(name, 1.0)}) if number else None))

    def __enter__(self) -> "Trace":
        self._stack = ExitStack()
        self._stack.enter_context(torch.inference_mode(False))  # in which operations come whole, not in their parts
        self._stack.enter_context(_Leaving(self))
        self._stack.enter_context(_Operations(self))
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def of(self, x: Tensor) -> Value | None:
        """What is known of a tensor, None if it depends on nothing."""
        value = self._values.get(_memory(x))
        return replace(value, even=True) if value is not None and not value.even and self._one_per_chain(x) else value

    def result(self, x: Tensor) -> Value:
        """The same for what a piece of the model gave, which also depends on all that has left torch."""
        value = self._given(x)
        terms = shifted(value.terms, self._moved)
        return Value(terms, value.even, value.powers if reads(terms).isdisjoint(self._moved) else None)

    def _given(self, x: Tensor) -> Value:
        value = self.of(x)
        if value is None:
            value = Value(CONSTANT if bool(x.any()) else frozenset(), False, frozenset())
        return value if not self.escaped else Value(joined(value.terms, [Term((), self.escaped, True)]), False)

    def note(self, x: Tensor, value: Value) -> None:
        """Adds to what is known of the memory that a tensor lies in."""
        key = _memory(x)
        if (before := self._values.get(key)) is not None:
            value = Value(joined(before.terms, value.terms), False)
        self._values[key] = value
        self._kept.append(x)

    def shift(self, name: str, x: Tensor, by: Tensor) -> None:
        """A named tensor is from now on its old self plus another one."""
        own, more = unknown(name, number=self._one_per_chain(x)), self._given(by).terms
        if reads(more):
            self._values[_memory(x)] = Value(added(own, more), self._one_per_chain(x))
        elif more:  # only products tell, see `Trace.result`
            self._moved.add(name)

    def leaves(self, things: object) -> None:
        """Values of these tensors are read where they can't be followed."""
        for x in tensors_in(things):
            if (value := self.of(x)) is not None:
                self.escaped |= reads(value.terms)

    def _one_per_chain(self, x: Tensor) -> bool:
        if x.layout is not torch.strided:
            return False
        return [n for n, step in zip(x.shape, x.stride(), strict=True) if n > 1 and step] in ([], [self.chains])

    def run(self, func: OpOverload, args: Sequence[object], kwargs: Mapping[str, object]) -> object:
        """An operation, with its results noted."""
        given = [x for x in tensors_in([*args, kwargs]) if self.of(x) is not None]
        if not given:
            return func(*args, **kwargs)
        name = func._schema.name.removeprefix("aten::").rstrip("_") if func.namespace == "aten" else func._schema.name
        written = _written(func, args, kwargs)
        filled = [x for x in written if self.of(x) is None and bool(_whole(x).any())]
        inputs = {key: x for key, x in kwargs.items() if not any(x is w for w in written)}
        value = None if is_harmless(name) or _is_view(func) else result(name, args, inputs, self.of)
        if value is not None and torch.Tag.dynamic_output_shape in func.tags and _decides_shape(name, args, self.of):
            self.leaves(given)
        found = func(*args, **kwargs)
        if value is None:
            if func is torch.ops.aten.view.dtype:  # the same memory read as other numbers
                self.note(given[0], self._anything(given))
            for x in tensors_in(found):
                if self.of(x) is None:  # no view after all
                    self.note(x, self._anything(given))
            return found
        outputs = list(tensors_in(found))
        if not all(isinstance(x, Tensor) for x in (found if isinstance(found, list | tuple) else [found])):
            self.leaves(given)
        for i, x in enumerate([*outputs, *written]):
            if name in FRESH and not written:
                continue
            terms, inside = value.terms, any(x is w for w in written)
            if 0 < i < len(outputs) or any(_narrower(x, y) for y in given):
                terms = self._anything(given).terms
            if any(x is w for w in filled):
                terms = joined(terms, CONSTANT)
            number = not inside and self._one_per_chain(x)
            if number and all(term.kinked and not term.factors for term in terms):
                terms = frozenset({Term(atoms=frozenset({Atom(len(self._kept), reads(terms))}))})
            same = not inside and terms == value.terms
            self.note(x, Value(terms, number or (same and value.even), value.powers if same else None))
        return found

    def _anything(self, given: Sequence[Tensor]) -> Value:
        """Of what may be any function of these tensors."""
        terms = (term for x in given if (value := self.of(x)) is not None for term in value.terms)
        return Value(unknown_function(terms, kinked=True))


class _Operations(OperationMode):
    def __init__(self, trace: Trace) -> None:
        super().__init__()
        self.trace = trace

    def __torch_dispatch__(
        self, func: OpOverload, types: object, args: Sequence[object] = (), kwargs: Mapping[str, object] | None = None
    ) -> object:
        busy, self.trace.busy = self.trace.busy, True
        try:
            return self.trace.run(func, args, kwargs or {})
        finally:
            self.trace.busy = busy


class _Leaving(TorchFunctionMode):
    def __init__(self, trace: Trace) -> None:
        super().__init__()
        self.trace = trace

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: object,
        args: Sequence[object] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        trace, kwargs, name = self.trace, kwargs or {}, getattr(func, "__name__", "")
        found = func(*args, **kwargs)
        if trace.busy or name in METADATA or (name == "__get__" and isinstance(found, PLAIN)):
            return found
        trace.busy = True
        try:
            whole = all(isinstance(x, Tensor) for x in (found if isinstance(found, list | tuple) else [found]))
            python = not whole and found is not None and not isinstance(found, torch.Size | torch.dtype | torch.device)
            unseen = name in MADE_OF_PYTHON and not (isinstance(found, Tensor) and trace.of(found) is not None)
            if python or unseen:
                trace.leaves([*args[name in OF_SELF :], kwargs])
            read = [y for x in tensors_in(args) if (y := trace.of(x)) is not None] if name in BY_ENTRY else []
            if read and isinstance(written := args[0], Tensor):
                trace.note(written, Value(unknown_function((t for y in read for t in y.terms), kinked=True)))
        finally:
            trace.busy = False
        return found


def _memory(x: Tensor) -> int:
    """Where a tensor's numbers lie; the tensor itself if that can't be said, as of a sparse one."""
    try:
        return x.untyped_storage().data_ptr() or id(x)
    except (NotImplementedError, RuntimeError):
        return id(x)


def _whole(x: Tensor) -> Tensor:
    """All of the memory that a tensor lies in."""
    try:
        return torch.empty(0, dtype=x.dtype, device=x.device).set_(x.untyped_storage())
    except (NotImplementedError, RuntimeError):
        return x


def _is_view(func: OpOverload) -> bool:
    """Whether an operation gives other views of memory, and writes none."""
    returns = func._schema.returns
    return bool(returns) and all(r.alias_info is not None and not r.alias_info.is_write for r in returns)


def _written(func: OpOverload, args: Sequence[object], kwargs: Mapping[str, object]) -> list[Tensor]:
    """Arguments that an operation writes to."""
    found: list[Tensor] = []
    for i, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            found += tensors_in([kwargs.get(argument.name), args[i] if i < len(args) else None])
    return found


def _narrower(x: Tensor, than: Tensor) -> bool:
    """Whether numbers are rounded on the way to x."""
    if not (than.is_floating_point() or than.is_complex()):
        return False
    if not (x.is_floating_point() or x.is_complex()):
        return True
    return torch.finfo(x.dtype).eps > torch.finfo(than.dtype).eps


def _decides_shape(name: str, args: Sequence[object], known: Callable[[Tensor], Value | None]) -> bool:
    """Whether the shape of the result depends on values that depend on unknowns."""
    every = list(tensors_in(args))
    deciding = every if name not in ("index", "masked_select") else [x for x in every[1:] if x.dtype is torch.bool]
    return any(known(x) is not None for x in deciding)

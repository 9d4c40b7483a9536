"""Reads pickles of plain data without unpickling, so that no code from the file is executed.

A numpy file with Python objects (as written by ``np.savez(clicks=[{...}])``) contains a pickle, and unpickling an
untrusted file can execute arbitrary code. Here, the opcodes of plain data are interpreted one by one:
lists, tuples, dictionaries with keys of text or whole numbers, text, numbers, and numpy arrays and scalars of
numbers. Everything else is refused. The work is bounded by the length of the input.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from nnsam3d.prompts.types import short

_NUMBERS = {f"{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8)} | {"f2", "f4", "f8", "b1"}
_MODULES = ("numpy.core.multiarray", "numpy._core.multiarray")
_GLOBALS = {(module, name): name for module in _MODULES for name in ("_reconstruct", "scalar")} | {
    ("numpy", "ndarray"): "ndarray",
    ("numpy", "dtype"): "dtype",
}


class NotPlain(ValueError):
    """The pickle is damaged, or contains more than plain data."""


def load_plain(data: bytes) -> Any:
    """The value of a pickle of plain data; arrays come as (nested) lists.

    Raises:
        NotPlain: anything else.
    """
    machine = _Machine(len(data))
    try:
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name == "STOP":
                return _finished(machine.pop())
            machine.run(opcode.name, argument)
    except NotPlain:
        raise
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise NotPlain(f"broken pickle ({type(error).__name__}: {str(error)[:80]})") from None
    raise NotPlain("broken pickle (no end)")


@dataclass(frozen=True)
class _Global:
    name: str


@dataclass
class _Dtype:
    code: str
    order: Literal["<", ">"] = "<"


@dataclass
class _Array:
    items: list[Any] = field(default_factory=list)


_MARK = object()


def _finished(value: Any) -> Any:
    return value.items if isinstance(value, _Array) else value


class _Machine:
    """The stack and the memo of a pickle."""

    def __init__(self, length: int) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.budget = 4 * length  # for bytes and objects in arrays: the same bytes can be referenced many times

    def run(self, name: str, argument: Any) -> None:
        """One opcode."""
        if name in _LITERALS:
            self.stack.append(argument)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name]())
        elif name in ("BINPUT", "LONG_BINPUT", "PUT"):
            self.memo[argument] = self.stack[-1]
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            self.stack.append(self.memo[argument])
        elif name in _ACTIONS:
            _ACTIONS[name](self, argument)
        elif name not in ("PROTO", "FRAME"):
            raise NotPlain(f"holds more than data (pickle opcode {name})")

    def pop(self) -> Any:
        """The top of the stack."""
        return self.stack.pop()

    def to_mark(self) -> list[Any]:
        """Pops everything down to the last mark, and the mark."""
        items: list[Any] = []
        while (top := self.stack.pop()) is not _MARK:
            items.append(top)
        return items[::-1]

    def memoize(self, _: Any) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def append(self, _: Any) -> None:
        self._extend([self.pop()])

    def appends(self, _: Any) -> None:
        self._extend(self.to_mark())

    def _extend(self, items: list[Any]) -> None:
        if not isinstance(self.stack[-1], list):
            raise NotPlain("broken pickle (append to no list)")
        self.stack[-1].extend(_finished(item) for item in items)

    def set_item(self, _: Any) -> None:
        value, key = self.pop(), self.pop()
        self._update([key, value])

    def set_items(self, _: Any) -> None:
        self._update(self.to_mark())

    def _update(self, pairs: list[Any]) -> None:
        # Text and numbers only: hashing nested tuples with shared parts can take exponential time.
        if not isinstance(self.stack[-1], dict) or not all(isinstance(key, (str, int)) for key in pairs[::2]):
            raise NotPlain("holds a dictionary whose keys are neither text nor numbers")
        self.stack[-1].update(zip(pairs[::2], map(_finished, pairs[1::2]), strict=True))

    def tuple_of(self, count: int | None) -> None:
        items = self.to_mark() if count is None else [self.pop() for _ in range(count)][::-1]
        self.stack.append(tuple(_finished(item) if isinstance(item, _Array) else item for item in items))

    def find(self, argument: Any) -> None:
        """GLOBAL "module name" or STACK_GLOBAL: a few constructors of numpy only."""
        if argument is None:
            name, module = self.pop(), self.pop()
        else:
            module, _, name = argument.partition(" ")
        if not isinstance(module, str) or not isinstance(name, str) or (module, name) not in _GLOBALS:
            raise NotPlain(f"refers to {short(module, 40)} {short(name, 40)}, which is refused")
        self.stack.append(_Global(_GLOBALS[module, name]))

    def reduce(self, _: Any) -> None:
        arguments, function = self.pop(), self.pop()
        if not isinstance(function, _Global) or not isinstance(arguments, tuple):
            raise NotPlain("broken pickle (call of no function)")
        if function.name == "_reconstruct":
            self.stack.append(_Array())
        elif function.name == "dtype":
            code = arguments[0]
            if not isinstance(code, str) or (code not in _NUMBERS and code != "O8"):
                raise NotPlain(f"holds an array of type {short(code, 20)}")
            self.stack.append(_Dtype(code))
        elif function.name == "scalar" and isinstance(arguments[0], _Dtype):
            self.spend(len(arguments[1]))
            self.stack.append(_numbers(arguments[0], arguments[1], (1,))[0])
        else:
            raise NotPlain(f"broken pickle (call of {function.name})")

    def spend(self, amount: int) -> None:
        self.budget -= amount
        if self.budget < 0:
            raise NotPlain("expands disproportionately")

    def build(self, _: Any) -> None:
        state, built = self.pop(), self.stack[-1]
        if isinstance(built, _Dtype) and isinstance(state, tuple):
            built.order = ">" if state[1] == ">" else "<"
        elif isinstance(built, _Array) and isinstance(state, tuple):
            _, shape, dtype, fortran, items = state
            if not isinstance(dtype, _Dtype) or not isinstance(shape, tuple):
                raise NotPlain("broken pickle (array without type)")
            self.spend(len(items))
            built.items[:] = _objects(items, shape) if dtype.code == "O8" else _numbers(dtype, items, shape, fortran)
        else:
            raise NotPlain("broken pickle (state for no array)")


def _objects(items: Any, shape: tuple[Any, ...]) -> list[Any]:
    if not isinstance(items, list) or len(shape) > 1:
        raise NotPlain("holds an array of objects with more than one axis")
    return items


def _numbers(dtype: _Dtype, data: Any, shape: tuple[Any, ...], fortran: Any = False) -> list[Any]:
    if dtype.code not in _NUMBERS or not isinstance(data, bytes):
        raise NotPlain("broken pickle (numbers without bytes)")
    if len(shape) > 3 or not all(isinstance(s, int) and s >= 0 for s in shape):
        raise NotPlain("broken pickle (shape of an array)")
    if not data:
        return []
    flat = np.frombuffer(data, np.dtype(dtype.code).newbyteorder(dtype.order))
    return flat.reshape(shape, order="F" if fortran else "C").tolist()


_LITERALS = {
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT",
    "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "SHORT_BINBYTES", "BINBYTES", "BINBYTES8",
}  # fmt: skip
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_TUPLE": tuple,
    "MARK": lambda: _MARK,
}
_ACTIONS: dict[str, Callable[[_Machine, Any], None]] = {
    "MEMOIZE": _Machine.memoize,
    "APPEND": _Machine.append,
    "APPENDS": _Machine.appends,
    "SETITEM": _Machine.set_item,
    "SETITEMS": _Machine.set_items,
    "TUPLE": lambda machine, _: machine.tuple_of(None),
    "TUPLE1": lambda machine, _: machine.tuple_of(1),
    "TUPLE2": lambda machine, _: machine.tuple_of(2),
    "TUPLE3": lambda machine, _: machine.tuple_of(3),
    "GLOBAL": _Machine.find,
    "STACK_GLOBAL": _Machine.find,
    "REDUCE": _Machine.reduce,
    "BUILD": _Machine.build,
}

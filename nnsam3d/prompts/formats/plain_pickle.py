"""Reads pickles of plain data, so that no code from the file is executed.

A numpy file with Python objects (as written by ``np.savez(clicks=[{...}])``) contains a pickle, and unpickling an
untrusted file can execute arbitrary code. Here, Python's unpickler knows only the opcodes of plain data (lists,
tuples, dictionaries with keys of text or whole numbers, text, numbers), and stand-ins for numpy's arrays and scalars of
numbers. Everything else is refused. The work is bounded by the length of the input.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import struct
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from nnsam3d.prompts.kinds.checks import short

_PYTHON: Any = pickle._Unpickler  # type: ignore[attr-defined]
_NUMBERS = {f"{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8)} | {"f2", "f4", "f8", "b1"}
_MODULES = ("numpy", "numpy.core.multiarray", "numpy._core.multiarray")
_ALLOWED = frozenset(
    """
    INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT UNICODE SHORT_BINUNICODE BINUNICODE BINUNICODE8
    SHORT_BINBYTES BINBYTES BINBYTES8 NONE NEWTRUE NEWFALSE EMPTY_LIST EMPTY_DICT EMPTY_TUPLE MARK PUT BINPUT
    LONG_BINPUT GET BINGET LONG_BINGET MEMOIZE APPEND APPENDS SETITEM SETITEMS TUPLE TUPLE1 TUPLE2 TUPLE3 GLOBAL
    STACK_GLOBAL REDUCE BUILD PROTO FRAME STOP
    """.split()  # noqa: SIM905
)
_CODES = [ord(opcode.code) for opcode in pickletools.opcodes if opcode.name in _ALLOWED]


class NotPlain(ValueError):
    """The pickle is damaged, or contains more than plain data."""


def load_plain(data: bytes) -> Any:
    """The value of a pickle of plain data; arrays come as (nested) lists. Raises NotPlain: anything else."""
    try:
        return _Unpickler(data).load()
    except NotPlain:
        raise
    except (
        *(ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError, EOFError),
        *(struct.error, pickle.UnpicklingError),
    ) as error:
        raise NotPlain(f"broken pickle ({type(error).__name__}: {str(error)[:80]})") from None


class _Unpickler(_PYTHON):
    """Python's in Python: the one in C reserves as much memory as a file asks for, and hashes any key."""

    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data))
        self.budget = 4 * len(data)  # for what arrays hold: the same bytes can be referenced many times

    def find_class(self, module: str, name: str) -> Any:
        """A few constructors of numpy, as stand-ins."""
        makes: dict[str, Any] = {
            "_reconstruct": lambda *_: _Array(self),
            "scalar": self._scalar,
            "dtype": _Dtype,
            "ndarray": _Call,
        }
        if module not in _MODULES or name not in makes:
            raise NotPlain(f"refers to {short(module, 40)} {short(name, 40)}, which is refused")
        return _Call(makes[name])

    def _scalar(self, dtype: Any, data: Any) -> Any:
        return self.numbers(dtype, data, (1,))[0]

    def numbers(self, dtype: Any, data: Any, shape: Any, fortran: Any = False) -> list[Any]:
        """The bytes of an array as lists."""
        self.spend(len(data))
        if not isinstance(dtype, _Dtype) or dtype.code not in _NUMBERS or not isinstance(data, bytes):
            raise NotPlain("broken pickle (numbers without bytes)")
        if len(shape) > 3 or not all(isinstance(size, int) and size >= 0 for size in shape):
            raise NotPlain("broken pickle (shape of an array)")
        flat = np.frombuffer(data, np.dtype(dtype.order + dtype.code)) if data else np.zeros(0)
        return list(flat.reshape(shape if data else 0, order="F" if fortran else "C").tolist())

    def spend(self, amount: int) -> None:
        """Refuses files whose content is much larger than they are."""
        self.budget -= amount
        if self.budget < 0:
            raise NotPlain("expands disproportionately")

    def refuse(self) -> None:
        """Every other opcode."""
        raise NotPlain("holds more than data")

    def set_item(self) -> None:
        """SETITEM: one pair."""
        value, key = self.stack.pop(), self.stack.pop()
        self._update([key, value])

    def set_items(self) -> None:
        """SETITEMS: all pairs down to the last mark."""
        self._update(self.pop_mark())

    def _update(self, pairs: list[Any]) -> None:
        # Text and numbers only: hashing nested tuples with shared parts can take exponential time.
        if not isinstance(self.stack[-1], dict) or not all(isinstance(key, (str, int)) for key in pairs[::2]):
            raise NotPlain("holds a dictionary whose keys are neither text nor numbers")
        self.stack[-1].update(zip(pairs[::2], pairs[1::2], strict=True))

    dispatch: ClassVar = {
        **dict.fromkeys(range(256), refuse),
        **{code: _PYTHON.dispatch[code] for code in _CODES},
        pickle.SETITEM[0]: set_item,
        pickle.SETITEMS[0]: set_items,
    }


class _Call:
    """Something that a pickle may call, and not change."""

    __slots__ = ("_make",)

    def __init__(self, make: Callable[..., Any]) -> None:
        self._make = make

    def __call__(self, *arguments: Any) -> Any:
        return self._make(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise NotPlain("broken pickle (state for no array)")


class _Dtype:
    def __init__(self, code: Any, *_: Any) -> None:
        if not isinstance(code, str) or (code not in _NUMBERS and code != "O8"):
            raise NotPlain(f"holds an array of type {short(code, 20)}")
        self.code, self.order = code, "<"

    def __setstate__(self, state: Any) -> None:
        self.order = ">" if state[1] == ">" else "<"


class _Array(list):
    def __init__(self, unpickler: _Unpickler) -> None:
        self._unpickler = unpickler

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, items = state
        if not isinstance(dtype, _Dtype) or not isinstance(shape, tuple):
            raise NotPlain("broken pickle (array without type)")
        if dtype.code != "O8":
            self[:] = self._unpickler.numbers(dtype, items, shape, fortran)
            return
        if not isinstance(items, list) or len(shape) > 1:
            raise NotPlain("holds an array of objects with more than one axis")
        self._unpickler.spend(len(items))
        self[:] = items

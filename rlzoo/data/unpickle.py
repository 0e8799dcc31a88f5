"""Reading pickles without running them.

A pickle is a program: `pickle.load` calls whatever functions it names. The demonstration sets worth having
(Adroit's, RLBench's) are pickles all the same, written by Python 2 or by classes we do not have. They are
read by the standard library's unpickler that is written in Python, because it can be restricted:

- Names are looked up in a short list, never imported. What stands behind them checks types and sizes, and
  nothing but an array, a dtype and a `Record` can be given a state.
- A few bytes cannot ask for much memory: indices are keys of a dictionary (the unpickler in C makes a table
  as long as the largest of them), and arrays together take no more bytes than the file has.
- Nor for much time: keys of dictionaries are text. A pair of pairs of pairs, 40 levels deep and the same
  object twice on each, takes 200 bytes, and 2^40 steps to be hashed as a key.
"""

from __future__ import annotations

import io
import math
import os
import pickle
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from rlzoo.errors import UserError, one_line
from rlzoo.types import Array

# Objects from outside the file, other ways to make objects, sets: nothing that our data needs.
_REFUSED = """PERSID BINPERSID EXT1 EXT2 EXT4 NEXT_BUFFER READONLY_BUFFER INST OBJ NEWOBJ_EX
    EMPTY_SET ADDITEMS FROZENSET"""
_OPCODES: dict[int, Any] = dict(pickle._Unpickler.dispatch)
for _name in _REFUSED.split():
    del _OPCODES[getattr(pickle, _name)[0]]
_NUMERIC = re.compile(r"[<>|=]?(b1|[iu][1248]|f[248])")


class Record:
    """The attributes, `fields` by name, of an object whose class is not to be imported."""

    fields: dict[str, Any]

    def __new__(cls) -> Record:  # noqa: D102  (a pickle does not call __init__)
        record = super().__new__(cls)
        record.fields = {}
        return record


def load_pickle(path: str | os.PathLike[str], *, records: Collection[str] = ()) -> Any:
    """Read a pickle of plain containers, numbers, text and numeric NumPy arrays.

    Text written by Python 2 is decoded as latin1, so that array bytes survive.

    Args:
        path: the file.
        records: full names ("package.module.Class") of classes whose objects are read as `Record`s.

    Returns:
        Lists, tuples, dictionaries with text as keys, numbers, text, bytes, arrays and `Record`s. Only in a
        file that is made to mislead there may be other objects among them; they can do nothing.

    Raises:
        UserError: the file is missing, truncated, no pickle, or asks for anything outside the allow-list.
    """
    try:
        stream = _Stream(Path(path).read_bytes())
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    try:
        value = _Unpickler(stream, records).load()
        if stream.read().strip():  # a line break does no harm
            raise pickle.UnpicklingError("its end is not that of the file")
    except Exception as error:  # the unpickler raises whatever the bytes lead it to
        reason = one_line(error)
        if isinstance(error, KeyError):
            reason = f"opcode {reason} is not allowed"
        raise UserError(f"{path}: {reason}; expected a pickle of arrays in plain containers") from error
    return value


class _Stream(io.BytesIO):
    """Bytes in memory; to read more of them than there are is an error."""

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        if len(data) < (size or 0):
            raise EOFError("the pickle is truncated")
        return data


class _Dtype:
    """What a pickle says of a dtype, first its kind, then its byte order: only plain numbers are accepted."""

    def __init__(self, name: Any, *_: object) -> None:
        text = name.decode("latin1") if isinstance(name, bytes) else name
        if not _NUMERIC.fullmatch(text):
            raise pickle.UnpicklingError(f"an array of type {text!r}, expected plain numbers")
        self.value: np.dtype[Any] = np.dtype(text)


class _Unpickler(pickle._Unpickler):
    """Python's unpickler, restricted as said above."""

    stack: list[Any]

    def __init__(self, stream: _Stream, records: Collection[str]) -> None:
        super().__init__(stream, encoding="latin1")
        # Each byte of an array stands in the file, and is made twice where it is written as text there.
        self._unmade = 2 * len(stream.getbuffer())
        self._records = records

    def find_class(self, module: str, name: str) -> Any:
        """What stands for a name; nothing is imported."""
        allowed = dict.fromkeys(self._records, Record) | {
            "numpy.dtype": _Dtype,
            "numpy.ndarray": "numpy.ndarray",  # an argument of _reconstruct, never called
            "numpy.core.multiarray._reconstruct": lambda *_: np.empty(0, np.uint8),
            "numpy.core.multiarray.scalar": lambda dtype, data: self._array(data, dtype, ())[()],
            "numpy.core.numeric._frombuffer": self._array,
            "_codecs.encode": self._encode,
            "__builtin__.bytes": lambda: b"",  # how Python 3 writes empty bytes for Python 2
        }
        asked = f"{module}.{name}".replace("numpy._core.", "numpy.core.")  # NumPy 2 renamed it
        if asked not in allowed:
            raise pickle.UnpicklingError(f"asks for {asked}, which is not on the allow-list")
        return allowed[asked]

    def _encode(self, text: object, encoding: object) -> bytes:
        """What Python 3 writes for bytes in the protocols of Python 2: latin1 text to be encoded."""
        if not isinstance(text, (bytes, bytearray, str)) or encoding != "latin1":
            raise pickle.UnpicklingError("bytes in an encoding other than latin1, or none")
        self._unmade -= len(text)
        if self._unmade < 0:
            raise pickle.UnpicklingError("makes more bytes than the file has")
        return text.encode("latin1") if isinstance(text, str) else bytes(text)

    def _array(self, data: object, dtype: object, shape: object, order: object = "C") -> Array:
        """`data` as an array; raises UnpicklingError unless its size is exactly right."""
        sizes = shape if isinstance(shape, tuple) else (shape,)
        if len(sizes) > 8 or not all(type(size) is int and 0 <= size < 1 << 40 for size in sizes):
            raise pickle.UnpicklingError(f"a {type(shape).__name__} of other than sizes is no array's shape")
        held = self._encode(data, "latin1")  # Python 2 wrote text
        if not isinstance(dtype, _Dtype) or math.prod(sizes) * dtype.value.itemsize != len(held):
            raise pickle.UnpicklingError(f"{len(held)} bytes are not an array of shape {sizes} and its type")
        return np.frombuffer(held, dtype.value).reshape(sizes, order="F" if order == "F" else "C")

    def _build(self) -> None:
        """Give a state to the topmost object, in place: other parts of the pickle may refer to it already."""
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, Record) and isinstance(state, dict):
            target.fields = state
        elif isinstance(target, _Dtype) and isinstance(state, tuple) and state[1] in ("<", ">", "|"):
            target.value = target.value.newbyteorder(state[1])
        elif isinstance(target, np.ndarray) and isinstance(state, tuple) and len(state) == 5:
            _, shape, dtype, is_fortran, data = state
            array = self._array(data, dtype, shape, "F" if is_fortran else "C")
            numpy_state: Any = (1, array.shape, array.dtype, False, array.tobytes())
            target.__setstate__(numpy_state)
        else:
            raise pickle.UnpicklingError(f"a malformed state of a {type(target).__name__}")

    def _keyed(self, opcode: bytes, keys: slice) -> None:
        if not all(isinstance(key, str) for key in self.stack[keys]):
            raise pickle.UnpicklingError("a dictionary's key is not text")
        _OPCODES[opcode[0]](self)

    dispatch: ClassVar[dict[int, Any]] = _OPCODES | {
        pickle.BUILD[0]: _build,
        pickle.SETITEM[0]: lambda self: self._keyed(pickle.SETITEM, slice(-2, -1)),
        pickle.SETITEMS[0]: lambda self: self._keyed(pickle.SETITEMS, slice(None, None, 2)),
        pickle.DICT[0]: lambda self: self._keyed(pickle.DICT, slice(None, None, 2)),
        # The inherited one makes room for as many bytes as are announced before it reads them.
        pickle.BYTEARRAY8[0]: _OPCODES[pickle.BINBYTES8[0]],
    }

"""Reading pickles without running them.

A pickle is a program: `pickle.load` calls whatever functions it names. The demonstration sets worth having
(Adroit's, RLBench's) are pickles all the same, written by Python 2 or by classes we do not have. Three
layers keep them data:

1. the bytes are walked first, without building anything: only opcodes that build plain values, containers
   and allow-listed objects pass, and no index may make the unpickler allocate more than the file justifies;
2. every name the pickle asks for is looked up in the small table below, never imported;
3. what stands behind those names is not NumPy's own (un)pickling code but a stand-in that checks shape,
   type and size and then makes one view of the bytes.

A few bytes can also describe something exponentially large: a pair of a pair of a pair, each of them the same
object twice. Nothing here (and nothing that is handed out) may therefore take long to hash, print or copy:
dictionary keys are no tuples, messages name types, and what a value comes to when written out is limited.
"""

from __future__ import annotations

import io
import math
import os
import pickle
import pickletools
import re
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np

from rlzoo.errors import UserError
from rlzoo.types import Array

# Objects from outside the file, classes with arguments of their own, sets, copies of the topmost value (which
# no pickler writes): nothing that our data needs.
_REFUSED = """PERSID BINPERSID EXT1 EXT2 EXT4 INST OBJ NEWOBJ_EX DUP
    NEXT_BUFFER READONLY_BUFFER EMPTY_SET ADDITEMS FROZENSET"""
# How many values the contents may come to when shared ones are counted as often as they occur, if that is
# more than the file has bytes; a file that shares nothing has fewer than one a byte.
_LEAST_VALUES = 1_000_000
# How many values may be on the unpickler's stack at a time. Picklers put lists and dictionaries away by the
# thousand, so only deep nesting or a huge tuple comes to more, and takes long to be walked.
_MOST_OPEN = 200_000
_OPCODES = {
    ord(opcode.code): opcode
    for opcode in pickletools.opcodes
    if opcode.proto <= 5 and opcode.name not in _REFUSED.split()
}
_NUMERIC = re.compile(r"[<>|=]?(b1|[iu][1248]|f[248])")
_LENGTH_BYTES = {
    pickletools.TAKEN_FROM_ARGUMENT1: (1, False),
    pickletools.TAKEN_FROM_ARGUMENT4: (4, True),
    pickletools.TAKEN_FROM_ARGUMENT4U: (4, False),
    pickletools.TAKEN_FROM_ARGUMENT8U: (8, False),
}


class Record:
    """A stand-in for an object of a class that is not to be imported: its attributes, no behaviour.

    Attributes:
        fields: the attributes the pickle holds, by name.
    """

    fields: dict[str, Any]

    def __setstate__(self, state: object) -> None:
        """Keep the object's attributes; any other kind of state is refused."""
        if not isinstance(state, dict) or not all(isinstance(key, str) for key in state):
            raise pickle.UnpicklingError("the state of an object is not a dictionary of attributes")
        self.fields = state


def load_pickle(path: str | os.PathLike[str], *, records: Collection[str] = ()) -> Any:
    """Read a pickle of plain containers, numbers, text and numeric NumPy arrays.

    Text written by Python 2 is decoded as latin1, so that array bytes survive.

    Args:
        path: the file.
        records: full names ("package.module.Class") of classes whose objects are read as `Record`s.

    Returns:
        Lists, tuples, dictionaries, numbers, text, bytes, arrays (read-only views) and `Record`s.

    Raises:
        UserError: the file is missing, truncated, no pickle, or asks for anything outside the allow-list.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    try:
        _check_opcodes(data)
        return _Resolver(max(len(data), _LEAST_VALUES))(_Unpickler(data, records).load())
    except Exception as error:
        # The pickle machine raises whatever the bytes lead it to: there is no shorter list of types.
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        if isinstance(error, RecursionError):
            reason = "its contents are nested too deeply"
        raise UserError(f"{path}: {reason}; expected a pickle of arrays in plain containers") from error


def _check_opcodes(data: bytes) -> None:
    """Walk the opcodes without building anything; raises UnpicklingError at the first that is not allowed."""
    position = count = 0
    stack = _Stack()
    while position < len(data):
        opcode = _OPCODES.get(data[position])
        if opcode is None:
            raise pickle.UnpicklingError(f"opcode {data[position]:#x} at byte {position} is not allowed")
        start, position = _argument(data, position + 1, opcode)
        count += 1
        index = _memo_index(opcode.name, data[start:position])
        # The unpickler's memo is an array as long as its largest index: four bytes could ask for 64 GB.
        if index > count:
            raise pickle.UnpicklingError(f"memo index {index} at byte {start} is out of range")
        stack.follow(opcode, index)
        if len(stack.entries) > _MOST_OPEN:
            raise pickle.UnpicklingError(f"at byte {start} more than {_MOST_OPEN:,} values are open")
        if opcode.name == "STOP":
            if data[position:].strip():  # a line break does no harm
                raise pickle.UnpicklingError(f"its end, at byte {start}, is not that of the file")
            return
    raise pickle.UnpicklingError("the pickle is truncated")


def _memo_index(name: str, argument: bytes) -> int:
    """The index into the memo that an opcode names; 0 for those that name none."""
    if name in ("PUT", "GET"):
        return int(argument)
    return int.from_bytes(argument, "little") if name.endswith(("BINPUT", "BINGET")) else 0


class _Stack:
    """What the unpickler's stack will hold, of which only one thing is known: which entries are tuples.

    A tuple as a dictionary's key would be hashed while the pickle is being read, and a nested one takes
    exponentially long.
    """

    def __init__(self) -> None:
        self.entries: list[bool] = []  # True: a tuple
        self.marks: list[int] = []  # how many entries lie below each mark
        self.memo: dict[int, bool] = {}

    def follow(self, opcode: pickletools.OpcodeInfo, index: int) -> None:
        """Do what the opcode will do. Raises UnpicklingError where it cannot, or makes a tuple a key."""
        name = opcode.name
        if name == "MARK":
            self.marks.append(len(self.entries))
        elif name == "POP" and self.marks and self.marks[-1] == len(self.entries):
            self.marks.pop()
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = self._top()
        elif name.endswith("PUT"):
            self.memo[index] = self._top()
        elif name.endswith("GET"):
            self.entries.append(self.memo.get(index, False))  # the unpickler refuses what is not there
        else:
            below, above = self._pop(opcode)
            keys = {"SETITEM": below[1:2], "SETITEMS": above[::2], "DICT": above[::2]}
            if any(keys.get(name, ())):
                raise pickle.UnpicklingError("a tuple is a dictionary's key")
            # With nothing to add, the unpickler leaves whatever lies there where it is.
            if name in ("APPEND", "APPENDS", "SETITEM", "SETITEMS", "BUILD") and below[0]:
                raise pickle.UnpicklingError("a tuple is changed")
            is_tuple = name.endswith("TUPLE") or name in ("TUPLE1", "TUPLE2", "TUPLE3")
            self.entries += [is_tuple] * len(opcode.stack_after)

    def _top(self) -> bool:
        if len(self.entries) <= self._floor():
            raise pickle.UnpicklingError("the pickle takes more than it has put down")
        return self.entries[-1]

    def _floor(self) -> int:
        """The entries that cannot be reached: those below the last mark."""
        return self.marks[-1] if self.marks else 0

    def _pop(self, opcode: pickletools.OpcodeInfo) -> tuple[list[bool], list[bool]]:
        """Take what the opcode takes: what lay below its mark, or all of it if it has none, and above."""
        taken = opcode.stack_before
        above: list[bool] = []
        if pickletools.markobject in taken:
            if not self.marks:
                raise pickle.UnpicklingError("the pickle goes back to a mark that it has not set")
            mark = self.marks.pop()
            above = self.entries[mark:]
            del self.entries[mark:]
            taken = taken[: taken.index(pickletools.markobject)]
        first = len(self.entries) - len(taken)
        if first < self._floor():
            raise pickle.UnpicklingError("the pickle takes more than it has put down")
        below = self.entries[first:]
        del self.entries[first:]
        return below, above


def _argument(data: bytes, position: int, opcode: pickletools.OpcodeInfo) -> tuple[int, int]:
    """The [start, end) of an opcode's argument in `data`; raises UnpicklingError where it ends too early."""
    if opcode.arg is None:
        return position, position
    size = opcode.arg.n
    if size == pickletools.UP_TO_NEWLINE:
        end = position
        for _ in range(2 if opcode.name == "GLOBAL" else 1):
            end = data.find(b"\n", end) + 1
            if end == 0:
                raise pickle.UnpicklingError("the pickle is truncated")
        return position, end
    if size < 0:
        width, signed = _LENGTH_BYTES[size]
        size = int.from_bytes(data[position : position + width], "little", signed=signed)
        position += width
    if size < 0 or position + size > len(data):
        raise pickle.UnpicklingError("the pickle is truncated")
    return position, position + size


class _Function:
    """A callable that a pickle may name. It has no settable attribute, so BUILD cannot alter it."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[..., object]) -> None:
        self._call = call

    def __call__(self, *args: object) -> object:
        return self._call(*args)

    def __setstate__(self, state: object) -> None:
        raise pickle.UnpicklingError("a function has no state")


class _DtypeShell:
    """Collects what a pickle says of a dtype: only plain numbers are accepted."""

    __slots__ = ("dtype",)

    def __init__(self, name: object, *_: object) -> None:
        text = name.decode("latin1") if isinstance(name, bytes) else name
        if not isinstance(text, str) or not _NUMERIC.fullmatch(text):
            shown = repr(text) if isinstance(text, str) else f"a {type(text).__name__}"
            raise pickle.UnpicklingError(f"an array of type {shown} is not an array of plain numbers")
        self.dtype: np.dtype[Any] = np.dtype(text)

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, tuple) or len(state) < 2 or state[1] not in ("<", ">", "|", "="):
            raise pickle.UnpicklingError("the state of a dtype is malformed")
        self.dtype = self.dtype.newbyteorder(state[1])


class _ArrayShell:
    """Collects what a pickle says of an array; `array` is set once its state has been checked."""

    __slots__ = ("array",)

    def __init__(self) -> None:
        self.array: Array | None = None

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise pickle.UnpicklingError("the state of an array is malformed")
        _, shape, dtype, fortran, data = state
        self.array = _make_array(data, dtype, shape, "F" if fortran else "C")


def _make_array(data: object, dtype: object, shape: object, order: object) -> Array:
    """A read-only view of `data` as an array; raises UnpicklingError unless its size is exactly right."""
    if isinstance(data, str):  # Python 2 wrote bytes as text
        data = data.encode("latin1")
    if not isinstance(data, (bytes, bytearray)) or not isinstance(dtype, _DtypeShell):
        raise pickle.UnpicklingError("the state of an array is malformed")
    sizes = shape if isinstance(shape, tuple) else (shape,)
    if len(sizes) > 8 or not all(type(size) is int and size >= 0 for size in sizes):
        raise pickle.UnpicklingError(f"a {type(shape).__name__} of other than sizes is no array's shape")
    if math.prod(sizes) * dtype.dtype.itemsize != len(data):
        raise pickle.UnpicklingError(f"an array of shape {sizes} and type {dtype.dtype} in {len(data)} bytes")
    return np.frombuffer(data, dtype.dtype).reshape(sizes, order="F" if order == "F" else "C")


def _make_scalar(dtype: object, data: object) -> object:
    return _make_array(data, dtype, (), "C")[()]


class _Encoder:
    """What Python 3 writes for bytes in the protocols of Python 2: latin1 text to be encoded.

    Args:
        budget: bytes that may be made. Each text stands in the file and becomes bytes once, so a file of
            that size needs no more; one that asks again and again for the same text does.
    """

    def __init__(self, budget: int) -> None:
        self.budget = budget

    def __call__(self, text: object, encoding: object) -> bytes:
        if not isinstance(text, str) or encoding != "latin1":
            raise pickle.UnpicklingError("bytes in an encoding other than latin1")
        self.budget -= len(text)
        if self.budget < 0:
            raise pickle.UnpicklingError("makes more bytes than the file has")
        return text.encode("latin1")


def _functions(budget: int) -> dict[str, object]:
    """The names a pickle of `budget` bytes may ask for. NumPy 2 moved `numpy.core` to `numpy._core`."""
    table: dict[str, object] = {
        "numpy.dtype": _Function(_DtypeShell),
        "numpy.ndarray": _Function(_refuse_call),
        "_codecs.encode": _Function(_Encoder(budget)),
        "__builtin__.bytes": _Function(lambda: b""),  # how Python 3 writes empty bytes for Python 2
    }
    for core in ("numpy.core", "numpy._core"):
        table[f"{core}.multiarray._reconstruct"] = _Function(lambda *_: _ArrayShell())
        table[f"{core}.multiarray.scalar"] = _Function(_make_scalar)
        table[f"{core}.numeric._frombuffer"] = _Function(_make_array)
    return table


def _refuse_call(*_: object) -> object:
    raise pickle.UnpicklingError("numpy.ndarray is called directly")


class _Unpickler(pickle.Unpickler):
    """Python's unpickler with a closed table of names instead of imports."""

    def __init__(self, data: bytes, records: Collection[str]) -> None:
        super().__init__(io.BytesIO(data), encoding="latin1")
        # A fresh class per file: nothing that one pickle does can be seen by the next.
        classes = {name: type(name.rsplit(".", 1)[-1], (Record,), {}) for name in records}
        self._names = classes | _functions(len(data))

    def find_class(self, module: str, name: str) -> Any:
        """Look a name up in the table; nothing is imported."""
        try:
            return self._names[f"{module}.{name}"]
        except KeyError:
            message = f"asks for {module}.{name}, which is not on the allow-list"
            raise pickle.UnpicklingError(message) from None

    def persistent_load(self, pid: object) -> Any:
        """Refuse references to objects outside the file."""
        raise pickle.UnpicklingError("refers to an object outside the file")


class _Resolver:
    """Replaces the shells by their arrays, everywhere, and limits what all of it comes to.

    Shared values are visited once and counted as often as they occur.

    Args:
        limit: how many values the contents may come to.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        # By id: what a value is replaced by, its count, and the value itself, so that its id stays taken.
        self._done: dict[int, tuple[Any, int, Any]] = {}

    def __call__(self, value: Any) -> Any:
        """`value` with arrays for shells; raises UnpicklingError where it is malformed or too large."""
        return self._resolve(value)[0]

    def _resolve(self, value: Any) -> tuple[Any, int]:
        if id(value) not in self._done:
            resolved, parts = self._replace(value)
            if parts >= self._limit:
                raise pickle.UnpicklingError("shares its contents so often that they are too many")
            self._done[id(value)] = resolved, parts + 1, value
        return self._done[id(value)][:2]

    def _replace(self, value: Any) -> tuple[Any, int]:
        """What stands for `value`, and how many values it holds."""
        if isinstance(value, _ArrayShell):
            if value.array is None:
                raise pickle.UnpicklingError("an array has no contents")
            return value.array, 0
        if isinstance(value, (_Function, _DtypeShell, type)):
            raise pickle.UnpicklingError("a function, type or dtype stands where a value should")
        if isinstance(value, Record):
            value.fields, parts = self._resolve(getattr(value, "fields", {}))
            return value, parts
        if isinstance(value, (list, tuple)):
            found = [self._resolve(item) for item in value]
            items = [item for item, _ in found]
            return (items if isinstance(value, list) else tuple(items)), sum(count for _, count in found)
        if isinstance(value, dict):
            held = {key: self._resolve(item) for key, item in value.items()}
            return {key: item for key, (item, _) in held.items()}, sum(count for _, count in held.values())
        return value, 0

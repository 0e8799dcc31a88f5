"""Saving an environment and putting it back, so that it goes on bit for bit.

An environment is a graph of Python objects: the wrappers, the one inside, what they hold. `Snapshots`
remembers what was in it right after it was made. A snapshot holds what differs from that, as dicts, lists,
numbers, strings and one NumPy array. It is put into an environment that has just been made in the same way,
whose objects are changed in place. So shared memory and identity stay what they were, and what belongs to a
process (a port, a temporary folder) stays that of the new one where nothing has changed it.

Kept are numbers, strings, containers, NumPy arrays with the memory that they share, random generators
(Python's and NumPy's own among them), MuJoCo's models and data, objects of classes written in Python, and the
variables of functions within functions. What is anything else (a physics engine in C, an open file) may not
change: the wrapper or environment that holds one whose pickle is another than at first, or that cannot be
pickled, is left out whole, and the snapshot says so. So is one in which objects changed that are known
through a set alone: nothing tells them apart in the next process. Out of sight are variables of modules and
classes, and what a library keeps to itself (PyBullet's worlds, which are known by a number).

Nothing is ever unpickled: an object is made without calling its class, which must have been imported already.
"""

from __future__ import annotations

import ctypes
import enum
import functools
import hashlib
import math
import os
import pickle
import random
import re
import sys
import tempfile
import threading
import types
import weakref
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Collection, Container, Iterable, Mapping
from copyreg import _slotnames  # type: ignore[attr-defined]
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.lib.format import descr_to_dtype, dtype_to_descr
from numpy.lib.stride_tricks import as_strided
from torch import Tensor

from rlzoo.types import Array

Environment = gym.Env[Any, Any]
# A value in a snapshot: None, a bool, a number or a string as it is; else a list that begins with a tag.
Ref = Any

# How environments are drawn and described, which is no state: attributes of theirs, and modules of classes.
_NOT_STATE = {"mujoco_renderer", "viewer", "screen", "clock", "surf", "isopen", "_cameras", "_film"}
_NOT_STATE |= {"_cached_spec"}
_DRAWING = ("mujoco", "pygame.surface", "pygame.time", "pygame.font")

_SCALARS = (type(None), bool, int, float, str)
_DICTS = {kind.__name__: kind for kind in (dict, OrderedDict, defaultdict, Counter)}
_FACTORIES = {kind.__name__: kind for kind in (list, dict, set, int, float)}
_CODE = (
    *(type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType, types.MethodType, np.ufunc),
    *(functools.partial, weakref.ReferenceType, *weakref.ProxyTypes),
    *(type(threading.Lock()), type(threading.RLock())),
)
_BIT_GENERATORS = {"PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64"}
# In place of a value: what was there when the environment was made, and what is there now.
_SAME, _DRAWN = ["same"], ["drawn"]
# In the paths of a set's elements.
_ONE_OF = "one of a set:"
_TEMPORARY = os.path.join(tempfile.gettempdir(), "")

# The arrays of an MjModel that tasks change when they reset (Adroit: body_pos, body_quat, site_pos; Fetch and
# the hands: site_pos, site_rgba, geom_rgba), and those that domain randomisation changes. The rest is meshes,
# textures and the structure of the model.
_MODEL_PARTS = (
    "(body|jnt|dof|geom|site|cam|light|mat|pair|eq|tendon|wrap|actuator|sensor|numeric|key|hfield)_|qpos"
)


class _CannotKeep(Exception):  # noqa: N818  (always caught)
    """An object of which no snapshot can be taken; the message says what it is."""


class Snapshots:
    """Takes snapshots of an environment and puts them back.

    Args:
        env: has just been made.

    Attributes:
        made: what it held then by path, "env.env.data", also what has been replaced since.
        paths: the same the other way round, by `id`.
        contents: what was in each of these, as the entries of a snapshot's nodes.
        simulators: those of MuJoCo among them by path.
    """

    def __init__(self, env: Environment) -> None:
        # Python's and NumPy's own generators: environments may draw from them too.
        shared = {"random": random._inst, "numpy.random": np.random.mtrand._rand}  # type: ignore[attr-defined]
        self.made: dict[str, Any] = {}
        self.paths: dict[int, str] = {}
        self.contents: dict[str, list[Any]] = {}
        self.simulators: dict[str, Any] = {}
        walk = _Walk(self, is_first=True)
        for path, value in {"env": env, **shared}.items():
            walk.ref(value, path, env)
        walk.run()
        for path in shared:  # never what another process begins with
            del self.contents[path]
        environments = {path: value for path, value in self.made.items() if isinstance(value, gym.Env)}
        self._roots = [*environments, *shared]
        self._classes = [type(value).__name__ for value in environments.values()]

    def take(self) -> dict[str, Any]:
        """What differs from the environment as it was made; shares no memory with it.

        ``["lost"]`` says what could not be kept, a string each. The wrappers or environments that hold that
        are not in the snapshot.
        """
        lost: dict[str, None] = {}
        left_out: set[int] = set()
        while True:
            walk = _Walk(self, left_out)
            for path in self._roots:
                walk.ref(self.made[path], path, self.made[path])
            walk.run()
            if not walk.lost:
                break
            lost |= dict.fromkeys(walk.lost)
            left_out |= walk.losers
        layout, offset = {}, 0
        for key, content in walk.content.items():
            layout[key] = [offset, len(content)]
            offset += len(content)
        content = np.frombuffer(b"".join(walk.content.values()), np.uint8)
        saved = {"classes": self._classes, "lost": list(lost), "nodes": walk.nodes}
        return saved | {"layout": layout, "bytes": content}

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Put a snapshot into the environment, which must be as it was made.

        Raises:
            AttributeError, IndexError, KeyError, TypeError, ValueError: it is of another task or version.
        """
        if snapshot["classes"] != self._classes:
            raise ValueError(f"{snapshot['classes']} found, {self._classes} expected")
        _Restoration(self.made, snapshot).run()


def to_tensors(snapshot: Any) -> Any:
    """The snapshot with tensors for arrays, as `torch.load(weights_only=True)` allows it."""
    # Not done in the worker processes: PyTorch would send every tensor as a shared-memory file.
    return _convert(snapshot, np.ndarray, lambda array: torch.from_numpy(np.array(array)))


def from_tensors(snapshot: Any) -> Any:
    """The snapshot that `to_tensors` was given."""
    return _convert(snapshot, Tensor, lambda tensor: tensor.cpu().numpy().copy())


def _convert(value: Any, kind: Any, convert: Callable[[Any], Any]) -> Any:
    """`value`, in whose dicts (not in its lists) what is of `kind` is converted."""
    if isinstance(value, dict):
        return {key: _convert(item, kind, convert) for key, item in value.items()}
    return convert(value) if isinstance(value, kind) else value


# ---- Taking -----------------------------------------------------------------------------------------------


class _Walk:
    """A walk over all objects that can be reached, each visited once.

    Args:
        known: what the environment held when it was made.
        left_out: ids of environments that are not visited.
        is_first: whether this is the walk that finds that out.

    Attributes:
        nodes: [where, recipe, entries] of every new or changed object: its path, or its number if it is new;
            what it is; its content as pairs [key, value].
        content: the bytes that the nodes refer to, by their hash.
        lost: what cannot be kept.
        losers: the ids of the environments that hold it.
    """

    def __init__(self, known: Snapshots, left_out: Container[int] = (), *, is_first: bool = False) -> None:
        self._known, self._left_out, self._is_first = known, left_out, is_first
        self.nodes: list[list[Any]] = []
        self.content: dict[str, bytes] = {}
        self.lost: list[str] = []
        self.losers: set[int] = set()
        self._pending: dict[str, bytes] = {}  # the bytes of the entry under way
        self._queue: deque[tuple[Any, str, Any]] = deque()
        self._sets: deque[tuple[Any, str, Any]] = deque()
        self._seen: dict[int, Ref] = {}
        self._alive: list[Any] = []  # an id is of use only as long as its object lives
        self._new = 0

    def run(self) -> None:
        """Visit what has been referred to, and what that refers to."""
        while queue := self._queue or self._sets:
            value, path, owner = queue.popleft()
            try:
                self._visit(value, path, owner)
            except _CannotKeep as problem:
                self._lose(path, str(problem), owner)

    def ref(self, value: Any, path: str, owner: Any) -> Ref:
        """How a snapshot refers to `value`, which is visited later if it has an identity.

        Args:
            value: anything.
            path: where it was found.
            owner: the environment that it was found in.
        """
        kind = type(value)
        if kind in _SCALARS:
            return value
        if kind is tuple or kind is frozenset:
            paths = self._element_paths(value, path)
            items = [self.ref(item, name, owner) for item, name in zip(value, paths, strict=True)]
            return ["tuple", *items] if kind is tuple else ["frozenset", *sorted(items, key=repr)]
        if kind is complex:
            return ["complex", value.real, value.imag]
        if kind is bytes:
            return ["bytes", self._bytes(value)]
        if isinstance(value, np.generic) and not value.dtype.hasobject:
            return ["scalar", dtype_to_descr(value.dtype), self._bytes(value.tobytes())]
        if isinstance(value, enum.Enum) and _find_class(_module(kind), kind.__qualname__) is kind:
            return ["enum", _module(kind), kind.__qualname__, value.name]
        if isinstance(value, tuple) and _find_class(_module(kind), kind.__qualname__) is kind:
            items = [self.ref(item, f"{path}[{i}]", owner) for i, item in enumerate(value)]
            return ["named tuple", _module(kind), kind.__qualname__, *items]
        if _draws(value):
            return _DRAWN
        return self._seen.get(id(value)) or self._meet(value, path, owner)

    def _element_paths(self, elements: Collection[Any], path: str) -> list[str]:
        """Paths of what is in a tuple, a set or a frozenset.

        Of several objects in a set that were met nowhere before, none is the same one in the next process.
        """
        if isinstance(elements, tuple):
            return [f"{path}[{i}]" for i in range(len(elements))]
        if len({unknown for item in elements for unknown in self._unknown(item)}) > 1:
            return [f"{path}[{_ONE_OF} {i}]" for i in range(len(elements))]
        return [f"{path}[the only one]"] * len(elements)

    def _unknown(self, value: Any) -> set[int]:
        """The ids of the objects that are met for the first time with `value`."""
        if isinstance(value, tuple | frozenset):
            return {unknown for item in value for unknown in self._unknown(item)}
        if isinstance(value, (*_SCALARS, complex, bytes, np.generic, enum.Enum)):
            return set()
        return set() if id(value) in self._seen or _draws(value) else {id(value)}

    def _key_name(self, key: Any, path: str, owner: Any) -> str:
        """What a key is called in the path of its value: the same in every process, as no address is."""
        if type(key) in _SCALARS:
            return repr(key)
        if isinstance(key, type):
            return f"{_module(key)}.{key.__qualname__}"
        return repr(self.ref(key, path, owner))

    def _meet(self, value: Any, path: str, owner: Any) -> Ref:
        """The reference to an object that is met for the first time."""
        if self._is_first:
            self._known.made[path], self._known.paths[id(value)] = value, path
            if _simulator(value) is not None:
                self._known.simulators[path] = value
        where: str | int | None = self._known.paths.get(id(value))
        if id(value) in self._left_out:
            if where is None:  # an environment that was made later
                self._lose(path, type(value).__name__, owner)
        else:
            # Sets last, when what they hold has been met where it has a place of its own.
            queue = self._sets if type(value) is set else self._queue
            queue.append((value, path, value if isinstance(value, gym.Env) else owner))
        if where is None:
            where, self._new = self._new, self._new + 1
        self._seen[id(value)] = ["object", where]
        self._alive.append(value)
        return self._seen[id(value)]

    def _lose(self, path: str, what: str, owner: Any) -> None:
        name = path.removeprefix(self._known.paths.get(id(owner), ""))
        self.lost.append(f"{type(owner).__name__}{name} ({what})")
        self.losers.add(id(owner))

    def _visit(self, value: Any, path: str, owner: Any) -> None:
        where = self._seen[id(value)][1]
        is_new = isinstance(where, int)
        if isinstance(value, _CODE):
            if is_new:
                raise _CannotKeep(type(value).__name__)
            for name, part in _parts(value):
                self.ref(part, f"{path}.{name}", owner)
            return
        recipe, entries = self._describe(value, path, owner, is_new=is_new)
        if self._is_first:
            self._known.contents[where] = [[key, item] for key, item, _ in entries]
            return
        before = None if is_new else self._known.contents.get(where)
        if recipe[0] == "simulator's" and not is_new:
            return
        if recipe[0] == "opaque":
            # Pickled for nothing but a comparison.
            if before is None or entries[0][1] is None or before[0][1] != entries[0][1]:
                raise _CannotKeep(type(value).__name__)
            return
        earlier = {repr(key): repr(item) for key, item in before or ()}
        same = [earlier.get(repr(key)) == repr(item) for key, item, _ in entries]
        if before is not None and all(same) and [key for key, _ in before] == [key for key, *_ in entries]:
            return
        for (_, item, content), is_same in zip(entries, same, strict=True):
            if not is_same:
                if type(item) is str and item.startswith(_TEMPORARY):
                    raise _CannotKeep(f"the temporary {item}")
                self.content |= content
        kept = [[key, _SAME if s else item] for (key, item, _), s in zip(entries, same, strict=True)]
        if _ONE_OF in repr((where, recipe, kept)):
            raise _CannotKeep("an object of a set")
        self.nodes.append([where, recipe, kept])

    def _describe(self, value: Any, path: str, owner: Any, *, is_new: bool) -> tuple[list[Any], list[Any]]:
        """What `value` is, and its content: key, value, and the bytes that this refers to."""
        kind = type(value)
        if kind is np.ndarray:
            return self._describe_array(value, path, owner, is_new=is_new)
        if kind is list or kind is deque:
            recipe = ["list"] if kind is list else ["deque", value.maxlen]
            return recipe, self._entries(((i, item, f"{path}[{i}]") for i, item in enumerate(value)), owner)
        if kind is set:
            items = zip(value, self._element_paths(value, path), strict=True)
            entries = self._entries(((item, None, name) for item, name in items), owner)
            return ["set"], sorted(entries, key=lambda entry: repr(entry[0]))
        if kind in _DICTS.values():
            factory = getattr(value, "default_factory", None)
            if is_new and factory is not None and factory not in _FACTORIES.values():
                raise _CannotKeep("defaultdict")
            recipe = ["dict", kind.__name__, getattr(factory, "__name__", None)]
            self._pending = {}
            names = [self._key_name(key, f"{path}[key {i}]", owner) for i, key in enumerate(value)]
            items = zip(value.items(), names, strict=True)
            return recipe, self._entries(((k, item, f"{path}[{name}]") for (k, item), name in items), owner)
        if kind in (np.random.Generator, np.random.RandomState, random.Random):
            recipe, state = _generator_state(value)
            return recipe, self._entries([("state", state, "")], owner, by_value=True)
        if (simulator := _simulator(value)) is not None:
            if is_new:
                raise _CannotKeep(f"{kind.__name__}, made later")
            arrays = _data_arrays(value) if simulator == "data" else _model_values(value)
            if simulator == "model":
                return ["model"], self._entries(((k, v, "") for k, v in arrays.items()), owner, by_value=True)
            content = b"".join(array.tobytes() for array in arrays.values())
            items = (("time", float(value.time), ""), ("bytes", content, ""))
            return ["data", *_layout(arrays)], self._entries(items, owner, by_value=True)
        if kind is types.CellType:
            return ["cell"], self._entries(_cell_contents(value, path), owner)
        if _is_plain(kind):
            if is_new and _find_class(_module(kind), kind.__qualname__) is not kind:
                raise _CannotKeep(kind.__name__)
            hidden = _NOT_STATE if isinstance(value, gym.Env) else ()
            attributes = sorted(_attributes(value).items())
            items = ((name, item, f"{path}.{name}") for name, item in attributes if name not in hidden)
            return ["instance", _module(kind), kind.__qualname__], self._entries(items, owner)
        return ["opaque"], [("pickle", _fingerprint(value), {})]

    def _describe_array(
        self, value: Array, path: str, owner: Any, *, is_new: bool
    ) -> tuple[list[Any], list[Any]]:
        base = value
        while isinstance(base.base, np.ndarray):
            base = base.base
        geometry = [dtype_to_descr(value.dtype), list(value.shape), list(value.strides)]
        if base.base is not None:
            for simulator_path, simulator in self._known.simulators.items():
                start, size = _memory(simulator)
                if 0 <= (offset := value.ctypes.data - start) < size:
                    return ["simulator's", simulator_path, offset, *geometry], []
        if value.dtype.hasobject:
            if value.dtype != object or base is not value:
                raise _CannotKeep(f"array of {value.dtype}")
            items = ((i, item, f"{path}[{i}]") for i, item in enumerate(value.ravel().tolist()))
            return ["objects", list(value.shape)], self._entries(items, owner)
        if base is not value:
            reference = self.ref(base, f"{path}.base", owner)
            return ["view", reference, value.ctypes.data - base.ctypes.data, *geometry], []
        return ["array", *geometry], self._entries([("bytes", value.tobytes(), "")], owner, by_value=True)

    def _entries(
        self, items: Iterable[tuple[Any, Any, str]], owner: Any, *, by_value: bool = False
    ) -> list[tuple[Ref, Ref, dict[str, bytes]]]:
        """Keys and values as a snapshot has them, and the bytes that the values refer to."""
        entries = []
        for key, item, path in items:
            self._pending = {}
            reference = self.ref(key, f"{path}'s key", owner)
            self.content |= self._pending
            self._pending = {}
            entries.append(
                (reference, self._value(item) if by_value else self.ref(item, path, owner), self._pending)
            )
        return entries

    def _value(self, value: Any) -> Ref:
        """A reference that contains arrays and dicts, of which nobody else knows."""
        if isinstance(value, np.ndarray):
            return ["copy", dtype_to_descr(value.dtype), list(value.shape), self._bytes(value.tobytes())]
        if isinstance(value, dict):
            return ["mapping", *([key, self._value(item)] for key, item in value.items())]
        return self.ref(value, "", None)

    def _bytes(self, content: bytes) -> str:
        key = hashlib.blake2b(content, digest_size=16).hexdigest()
        self._pending[key] = content
        return key


# ---- Restoring --------------------------------------------------------------------------------------------


class _Restoration:
    """Puts a snapshot into the objects of an environment that has just been made."""

    def __init__(self, made: Mapping[str, Any], snapshot: Mapping[str, Any]) -> None:
        self._made, self._nodes = made, snapshot["nodes"]
        self._layout, self._content = snapshot["layout"], snapshot["bytes"]
        self._new: dict[int, Any] = {}

    def run(self) -> None:
        """Make the new objects, then fill all: containers that hash come after what they hold."""
        for is_view in (False, True):  # a view is of an array that is there
            for where, recipe, entries in self._nodes:
                if isinstance(where, int) and (recipe[0] == "view") == is_view:
                    self._new[where] = self._make(recipe, entries)
        order = {"set": 1, "dict": 1, "model": 2, "data": 3}
        for where, recipe, entries in sorted(self._nodes, key=lambda node: order.get(node[1][0], 0)):
            value = self._object(where)
            _FILL[recipe[0]](self, value, recipe, entries)

    def _object(self, where: str | int) -> Any:
        return self._new[where] if isinstance(where, int) else self._made[where]

    def _value(self, ref: Ref) -> Any:
        """The value that `_Walk.ref` was given."""
        if not isinstance(ref, list):
            return ref
        tag, *rest = ref
        if tag == "object":
            return self._object(rest[0])
        if tag == "drawn":
            return None
        if tag in ("tuple", "frozenset"):
            items = map(self._value, rest)
            return tuple(items) if tag == "tuple" else frozenset(items)
        if tag == "complex":
            return complex(*rest)
        if tag == "bytes":
            return self._bytes(rest[0])
        if tag == "scalar":
            return np.frombuffer(self._bytes(rest[1]), _dtype(rest[0]))[0]
        if tag == "copy":
            return self._array(*rest)
        if tag == "mapping":
            return {key: self._value(item) for key, item in rest}
        module, name, *rest = rest
        kind = _find_class(module, name)
        if kind is None:
            raise ValueError(f"{name} is not known")
        if tag == "enum" and issubclass(kind, enum.Enum):
            return kind.__members__[rest[0]]
        if tag == "named tuple" and issubclass(kind, tuple):
            return tuple.__new__(kind, map(self._value, rest))
        raise ValueError(f"a {tag} in a snapshot")

    def _bytes(self, key: str) -> bytes:
        offset, size = self._layout[key]
        content: bytes = self._content[offset : offset + size].tobytes()
        return content

    def _array(self, descr: Any, shape: list[int], key: str) -> Array:
        content, dtype = self._bytes(key), _dtype(descr)
        if len(content) != math.prod(shape) * dtype.itemsize:
            raise ValueError("an array of another size")
        return np.frombuffer(content, dtype).reshape(shape) if content else np.empty(shape, dtype)

    def _make(self, recipe: list[Any], entries: list[Any]) -> Any:
        """A new object, which has yet to be filled."""
        kind, *rest = recipe
        if kind == "list":
            return []
        if kind == "deque":
            return deque(maxlen=rest[0])
        if kind == "set":
            return set()
        if kind == "dict":
            name, factory = rest
            return defaultdict(factory and _FACTORIES[factory]) if name == "defaultdict" else _DICTS[name]()
        if kind == "array":
            array = self._array(rest[0], rest[1], entries[0][1][-1])
            # In memory as it was: sums over it are the same to the last bit.
            return np.empty_like(as_strided(array, rest[1], rest[2]), subok=False)
        if kind == "objects":
            return np.empty(rest[0], object)
        if kind == "view":
            reference, offset, descr, shape, strides = rest
            memory = self._value(reference).ravel(order="K").view(np.uint8)
            return np.ndarray(shape, _dtype(descr), memory, offset, strides)
        if kind == "simulator's":
            path, offset, descr, shape, strides = rest
            start, size = _memory(self._made[path])
            memory = (ctypes.c_char * size).from_address(start)
            return np.ndarray(shape, _dtype(descr), memory, offset, strides)
        if kind == "Random":
            return random.Random()
        if kind == "RandomState":
            return np.random.RandomState()
        if kind == "Generator" and rest[0] in _BIT_GENERATORS:
            return np.random.Generator(getattr(np.random, rest[0])())
        if kind == "instance" and (found := _find_class(*rest)) is not None:
            return found() if found is types.SimpleNamespace else object.__new__(found)
        raise ValueError(f"{' '.join(map(str, recipe))} is not known")

    def _fill_instance(self, value: Any, recipe: list[Any], entries: list[Any]) -> None:
        kind = type(value)
        if [_module(kind), kind.__qualname__] != recipe[1:]:
            raise ValueError(f"{recipe[-1]} found, {kind.__qualname__} expected")
        gone = set(_attributes(value)).difference(_NOT_STATE if isinstance(value, gym.Env) else ())
        for name, ref in entries:
            gone.discard(name)
            if ref not in (_SAME, _DRAWN):
                # Neither a class's own `__setattr__` nor a property is to run.
                if name in _slotnames(kind):
                    object.__setattr__(value, name, self._value(ref))
                else:
                    value.__dict__[name] = self._value(ref)
        for name in gone:
            object.__delattr__(value, name)

    def _fill_list(self, value: Any, recipe: list[Any], entries: list[Any]) -> None:
        before = dict(enumerate(value))
        items = [before.get(i) if ref in (_SAME, _DRAWN) else self._value(ref) for i, ref in entries]
        value.clear()
        value.extend(items)

    def _fill_dict(self, value: Any, recipe: list[Any], entries: list[Any]) -> None:
        before = dict(value)
        value.clear()
        for key, ref in ((self._value(key), ref) for key, ref in entries):
            value[key] = before.get(key) if ref in (_SAME, _DRAWN) else self._value(ref)

    def _fill_set(self, value: Any, recipe: list[Any], entries: list[Any]) -> None:
        value.clear()
        value.update(self._value(key) for key, _ in entries)

    def _fill_cell(self, value: Any, recipe: list[Any], entries: list[Any]) -> None:
        for _, ref in entries:
            if ref not in (_SAME, _DRAWN):
                value.cell_contents = self._value(ref)

    def _fill_array(self, value: Array, recipe: list[Any], entries: list[Any]) -> None:
        content = self._array(recipe[1], recipe[2], entries[0][1][-1])
        if (content.dtype, content.shape) != (value.dtype, value.shape):
            raise ValueError(f"an array of {value.shape} was of {content.shape}")
        value[...] = content

    def _fill_objects(self, value: Array, recipe: list[Any], entries: list[Any]) -> None:
        for i, ref in entries:
            if ref not in (_SAME, _DRAWN):
                value[np.unravel_index(i, value.shape)] = self._value(ref)

    def _fill_generator(self, value: Any, recipe: list[Any], entries: list[Any]) -> None:
        state = self._value(entries[0][1])
        if recipe[0] == "Random":
            value.setstate((state["version"], tuple(state["key"].tolist()), state["gauss"]))
        elif recipe[0] == "RandomState":
            value.set_state(state)
        else:
            value.bit_generator.state = state

    def _fill_model(self, model: Any, recipe: list[Any], entries: list[Any]) -> None:
        present = _model_values(model)
        for name, ref in entries:
            target, content = present[name], self._value(ref) if ref != _SAME else None
            if content is None:
                continue
            if not isinstance(target, np.ndarray):
                setattr(model.opt, name.removeprefix("opt."), content)
            elif target.shape == content.shape:
                target[...] = content
            else:
                raise ValueError(f"the simulator's {name} differs")

    def _fill_data(self, data: Any, recipe: list[Any], entries: list[Any]) -> None:
        import mujoco

        arrays = _data_arrays(data)
        if differing := sorted(set(recipe[1:]) ^ set(_layout(arrays))):
            raise ValueError(f"the simulator's arrays differ, such as {differing[0]}")
        (_, time), (_, content) = entries
        if time != _SAME:
            data.time = time
        if content != _SAME:
            packed = self._value(content)
            _unpack(packed, arrays)
            mujoco.mj_forward(
                data.model, data
            )  # makes contacts and constraints, and overwrites what is derived
            _unpack(packed, arrays)

    def _leave(self, value: Any, recipe: list[Any], entries: list[Any]) -> None:
        """An array whose memory belongs to another."""


_FILL: dict[str, Callable[[_Restoration, Any, list[Any], list[Any]], None]] = {
    "instance": _Restoration._fill_instance,
    "list": _Restoration._fill_list,
    "deque": _Restoration._fill_list,
    "dict": _Restoration._fill_dict,
    "set": _Restoration._fill_set,
    "cell": _Restoration._fill_cell,
    "array": _Restoration._fill_array,
    "objects": _Restoration._fill_objects,
    "Random": _Restoration._fill_generator,
    "RandomState": _Restoration._fill_generator,
    "Generator": _Restoration._fill_generator,
    "model": _Restoration._fill_model,
    "data": _Restoration._fill_data,
    "view": _Restoration._leave,
    "simulator's": _Restoration._leave,
}


# ---- Classes and generators -------------------------------------------------------------------------------


def _module(kind: type) -> str:
    """The module of a class; "" for one that was made in C without, as SWIG's are."""
    name = getattr(kind, "__module__", None)
    return name if isinstance(name, str) else ""


@functools.cache
def _is_plain(kind: type) -> bool:
    """Whether the attributes of its instances are all there is: no part of the class is written in C."""
    if _module(kind).partition(".")[0] in sys.stdlib_module_names:  # files, processes, threads
        return kind is types.SimpleNamespace
    heap_type = 1 << 9
    return all(
        base is object or (base.__flags__ & heap_type and getattr(base.__new__, "__self__", None) is not base)
        for base in kind.__mro__
    )


@functools.cache
def _is_drawing(kind: type) -> bool:
    return any(f"{_module(kind)}.".startswith(f"{module}.") for module in _DRAWING)


def _draws(value: Any) -> bool:
    return _is_drawing(type(value)) and _simulator(value) is None


def _find_class(module: str, name: str) -> Any:
    """The class of that name, if it is imported and instances can be made without running its code."""
    if (module, name) == ("types", "SimpleNamespace"):
        return types.SimpleNamespace
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        # Not `getattr`, for which a module may define a function.
        found = vars(found).get(part) if isinstance(found, (types.ModuleType, type)) else None
    is_class = isinstance(found, type) and _module(found) == module and not hasattr(found, "__del__")
    return found if is_class and (_is_plain(found) or issubclass(found, (enum.Enum, tuple))) else None


def _attributes(value: Any) -> dict[str, Any]:
    """The attributes of an instance, in its dict and in its slots."""
    slots = {name: getattr(value, name) for name in _slotnames(type(value)) if hasattr(value, name)}
    return {**getattr(value, "__dict__", {}), **slots}


def _parts(code: Any) -> list[tuple[str, Any]]:
    """What a function or method can change: variables of the function around it, what it is bound to."""
    if isinstance(code, functools.partial):
        return [("func", code.func), ("args", code.args), ("keywords", code.keywords)]
    if isinstance(code, types.FunctionType):
        return [(f"<{i}>", cell) for i, cell in enumerate(code.__closure__ or ())]
    bound = getattr(code, "__self__", None)
    return [] if isinstance(bound, (types.ModuleType, type)) else [("__self__", bound)]


def _cell_contents(cell: types.CellType, path: str) -> list[tuple[str, Any, str]]:
    try:
        return [("contents", cell.cell_contents, f"{path}.contents")]
    except ValueError:  # not assigned yet
        return []


def _fingerprint(value: Any) -> str | None:
    """A hash that changes when `value` does, None where there is none. Nothing unpickles it."""
    if isinstance(value, tempfile.TemporaryDirectory):  # whose files no snapshot has
        return None
    try:
        return hashlib.blake2b(pickle.dumps(value), digest_size=16).hexdigest()
    except Exception:  # it says in any way there is that it cannot be pickled
        return None


def _generator_state(value: Any) -> tuple[list[Any], dict[str, Any]]:
    if isinstance(value, random.Random):
        version, key, gauss = value.getstate()
        return ["Random"], {"version": version, "key": np.array(key, np.uint32), "gauss": gauss}
    if isinstance(value, np.random.RandomState):
        return ["RandomState"], dict(value.get_state(legacy=False))
    name = type(value.bit_generator).__name__
    if name not in _BIT_GENERATORS:
        raise _CannotKeep(name)
    return ["Generator", name], dict(value.bit_generator.state)


def _dtype(descr: Any) -> np.dtype[Any]:
    dtype = descr_to_dtype(descr)
    if dtype.hasobject:  # bytes are no addresses
        raise ValueError("an array of objects in a snapshot")
    return dtype


# ---- MuJoCo -----------------------------------------------------------------------------------------------


def _simulator(value: Any) -> str | None:
    """Whether `value` is an MjModel ("model") or an MjData ("data")."""
    mujoco = sys.modules.get("mujoco")
    if mujoco is None:  # not imported: no environment uses it
        return None
    return (
        "model" if isinstance(value, mujoco.MjModel) else "data" if isinstance(value, mujoco.MjData) else None
    )


def _memory(simulator: Any) -> tuple[int, int]:
    """Where the arrays of an MjModel or an MjData lie: address and size."""
    first = simulator.qpos0 if _simulator(simulator) == "model" else simulator.qpos
    return first.ctypes.data, simulator.nbuffer


def _model_values(model: Any) -> dict[str, Any]:
    """Arrays and options of an MjModel that may change while it is used."""
    options = {name: getattr(model.opt, name) for name in dir(model.opt) if not name.startswith("_")}
    known = {
        f"opt.{name}": value for name, value in options.items() if isinstance(value, (int, float, np.ndarray))
    }
    return known | _arrays(model, _MODEL_PARTS)


def _data_arrays(data: Any) -> dict[str, Array]:
    """The arrays of an MjData that last from step to step.

    Derived quantities are among them, because environments read them before they step (Ant's `xpos`) or
    without stepping (Humanoid's `cinert`), and after a step they are those of the position before it.
    Contacts, constraints and islands are not: every step makes them anew in an arena, of which they may be a
    stale part, so that writing to them may overwrite something else. What lasts is in one buffer that begins
    with `qpos`.
    """
    start, size = _memory(data)
    arrays = {
        name: array
        for name, array in _arrays(data).items()
        if 0 <= array.ctypes.data - start < size and name != "plugin_data"  # which holds addresses
    }
    return arrays | {"energy": data.energy}


def _arrays(struct: Any, pattern: str = "") -> dict[str, Array]:
    values = {name: getattr(struct, name) for name in dir(struct) if re.match(pattern, name)}
    return {name: value for name, value in values.items() if isinstance(value, np.ndarray) and value.size}


def _unpack(content: bytes, targets: Mapping[str, Array]) -> None:
    """Write into `targets` the bytes of arrays of the same names, types and shapes, one after another."""
    offset = 0
    for array in targets.values():
        part = content[offset : offset + array.nbytes]
        array[...] = np.frombuffer(part, array.dtype).reshape(array.shape)
        offset += array.nbytes


def _layout(arrays: Mapping[str, Array]) -> list[str]:
    return [f"{name} {array.dtype} {array.shape}" for name, array in arrays.items()]

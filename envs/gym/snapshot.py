"""Saving an environment and putting it back, so that it goes on bit for bit.

A snapshot is made of dicts, lists, numbers, strings and NumPy arrays. It holds of every environment (the
wrappers, the one inside, and those kept as attributes) the attributes that are plain values and the random
generators, and the arrays of MuJoCo's model and data. What other simulators (Box2D) keep outside Python is
not in it: there a restored environment goes on from another state.
"""

from __future__ import annotations

import copy
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.utils import seeding
from torch import Tensor

from rlzoo.types import Array

Environment = gym.Env[Any, Any]

# How an environment was made and is shown, not what has happened in it: a run may be resumed with another
# installation or other rendering.
_NOT_STATE = {"render_mode", "width", "height", "fullpath", "tmp_xml_file_path"}
_NOT_STATE |= {"_ezpickle_args", "_ezpickle_kwargs", "_saved_kwargs"}
_SCALARS = (type(None), bool, int, float, str)

# The parts of an MjModel that tasks change when they reset (Adroit: body_pos, body_quat, site_pos; Fetch and
# the hands: site_pos, site_rgba, geom_rgba), and those that domain randomisation changes. The rest is meshes,
# textures and the structure of the model.
_MODEL_PARTS = "(body|jnt|dof|geom|site|cam|light|mat|eq|tendon|actuator)_"


def take(env: Environment) -> dict[str, Any]:
    """The snapshot of `env` and all environments in it; it shares no memory with them."""
    environments = _environments(env)
    return {
        "environments": [_attributes(env) for env in environments],
        "physics": [_physics(model, data) for model, data in _simulations(environments)],
    }


def restore(env: Environment, snapshot: Mapping[str, Any]) -> None:
    """Put a snapshot back into an environment that was made the same way.

    Raises:
        AttributeError, KeyError, ValueError: it is of another task or of another version of the simulator.
    """
    environments = _environments(env)
    simulations = _simulations(environments)  # before attributes are replaced
    for part, attributes in zip(environments, snapshot["environments"], strict=True):
        _restore_attributes(part, attributes)
    for (model, data), physics in zip(simulations, snapshot["physics"], strict=True):
        _restore_physics(model, data, physics)


def to_tensors(snapshot: Any) -> Any:
    """The snapshot with tensors for arrays, as `torch.load(weights_only=True)` allows it."""
    # Not done in the worker processes: PyTorch would send every tensor as a shared-memory file.
    return _convert(snapshot, (np.ndarray, np.generic), lambda array: torch.from_numpy(np.array(array)))


def from_tensors(snapshot: Any) -> Any:
    """The snapshot that `to_tensors` was given."""
    # Indexing with () makes the arrays without dimensions the NumPy scalars that they were.
    return _convert(snapshot, Tensor, lambda tensor: tensor.cpu().numpy().copy()[()])


def _convert(value: Any, kind: Any, convert: Callable[[Any], Any]) -> Any:
    if isinstance(value, dict):
        return {key: _convert(item, kind, convert) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_convert(item, kind, convert) for item in value)
    return convert(value) if isinstance(value, kind) else value


# ---- Attributes and random generators ---------------------------------------------------------------------


def _environments(root: Environment) -> list[Environment]:
    """`root` and all environments inside it, as wrapped (`env`) or otherwise held (kitchen's `robot_env`)."""
    found = [root]
    for env in found:  # grows while we walk it
        for value in vars(env).values():
            if isinstance(value, gym.Env) and all(value is not other for other in found):
                found.append(value)
    return found


def _attributes(env: Environment) -> dict[str, Any]:
    state = {name: value for name, value in vars(env).items() if name not in _NOT_STATE}
    return {
        "class": type(env).__name__,
        "values": {name: copy.deepcopy(value) for name, value in state.items() if _is_plain(value)},
        "generators": {
            name: value.bit_generator.state
            for name, value in state.items()
            if isinstance(value, np.random.Generator)
        },
    }


def _restore_attributes(env: Environment, saved: Mapping[str, Any]) -> None:
    if saved["class"] != type(env).__name__:
        raise ValueError(f"{saved['class']} found, {type(env).__name__} expected")
    present = vars(env)
    for name, value in saved["values"].items():
        if name not in present or _is_plain(present[name]):
            present[name] = copy.deepcopy(value)
    for name, state in saved["generators"].items():
        if not isinstance(present.get(name), np.random.Generator):  # there is none before the first reset
            present[name] = seeding.np_random(0)[0]
        present[name].bit_generator.state = state


def _is_plain(value: object) -> bool:
    """Whether `value` is made of numbers, strings and arrays of its own only, which `torch.load` allows."""
    if isinstance(value, np.ndarray):
        return value.dtype.char in "?bBhHiIlLqQefdFD" and not _is_foreign(value)
    if type(value) is dict:
        return all(type(key) in _SCALARS for key in value) and all(map(_is_plain, value.values()))
    if type(value) is set:
        return all(type(item) in _SCALARS for item in value)
    if type(value) in (list, tuple):
        return all(map(_is_plain, value))  # type: ignore[call-overload]
    return type(value) in _SCALARS or isinstance(value, (np.number, np.bool_))


def _is_foreign(array: Array) -> bool:
    """Whether the array is a view of the simulator's memory, as kitchen's `init_qvel` is of `data.qvel`."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return type(array.base).__name__ == "PyCapsule"


# ---- MuJoCo -----------------------------------------------------------------------------------------------


def _simulations(environments: Sequence[Environment]) -> list[tuple[Any, Any]]:
    """Every pair of MjModel and MjData that the environments hold, once."""
    mujoco = sys.modules.get("mujoco")
    if mujoco is None:  # not imported: no environment uses it
        return []
    held = [(vars(env).get("model"), vars(env).get("data")) for env in environments]
    return list({id(pair[1]): pair for pair in held if isinstance(pair[1], mujoco.MjData)}.values())


def _physics(model: Any, data: Any) -> dict[str, Any]:
    return {
        "time": float(data.time),
        "data": _pack(_data_arrays(data)),
        "model": _pack(_arrays(model, _MODEL_PARTS)),
    }


def _restore_physics(model: Any, data: Any, saved: Mapping[str, Any]) -> None:
    import mujoco

    _unpack(saved["model"], _arrays(model, _MODEL_PARTS))
    _unpack(saved["data"], _data_arrays(data))
    data.time = saved["time"]
    mujoco.mj_forward(model, data)  # makes the contacts and constraints, and overwrites derived quantities
    _unpack(saved["data"], _data_arrays(data))


def _data_arrays(data: Any) -> dict[str, Array]:
    """The arrays of an MjData that last from step to step.

    Derived quantities are among them, because environments read them before they step (Ant's `xpos`) or
    without stepping (Humanoid's `cinert`), and after a step they are those of the position before it.
    Contacts, constraints and islands are not: every step makes them anew in an arena, of which they may be a
    stale part, so that writing to them may overwrite something else. What lasts is in one buffer that begins
    with `qpos`.
    """
    start = data.qpos.ctypes.data
    arrays = {
        name: array
        for name, array in _arrays(data).items()
        if 0 <= array.ctypes.data - start < data.nbuffer and name != "plugin_data"  # which holds addresses
    }
    return arrays | {"energy": data.energy}


def _arrays(struct: Any, pattern: str = "") -> dict[str, Array]:
    values = {name: getattr(struct, name) for name in dir(struct) if re.match(pattern, name)}
    return {name: value for name, value in values.items() if isinstance(value, np.ndarray) and value.size}


def _pack(arrays: Mapping[str, Array]) -> dict[str, Any]:
    """Several hundred small arrays as one, which makes checkpoints of many lanes quick to write and read."""
    content = b"".join(array.tobytes() for array in arrays.values())
    return {"layout": _layout(arrays), "bytes": np.frombuffer(content, np.uint8)}


def _unpack(packed: Mapping[str, Any], targets: Mapping[str, Array]) -> None:
    """Write into `targets` what `_pack` made of arrays of the same names, types and shapes."""
    differing = sorted(set(packed["layout"]) ^ set(_layout(targets)))
    if differing:
        raise ValueError(f"the simulator's arrays differ, such as {differing[0]}")
    offset = 0
    for array in targets.values():
        content = packed["bytes"][offset : offset + array.nbytes]
        array[...] = content.view(array.dtype).reshape(array.shape)
        offset += array.nbytes


def _layout(arrays: Mapping[str, Array]) -> list[str]:
    return [f"{name} {array.dtype} {array.shape}" for name, array in arrays.items()]

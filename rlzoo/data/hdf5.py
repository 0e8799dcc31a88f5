"""HDF5 files: those that may be damaged or made to mislead are read with everything checked; and writing.

Every function raises `UserError` with one line that names the file, the key and what was expected.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np

from rlzoo.errors import UserError, one_line
from rlzoo.run.files import atomic_write
from rlzoo.types import BoolArray, FloatArray

# Deflate cannot shrink data more than about 1,030-fold; a dataset that claims to is damaged. Small arrays may
# have been created and never written.
_MOST_COMPRESSION, _HARMLESS_BYTES = 1_100, 1 << 26


@contextlib.contextmanager
def open_hdf5(path: Path) -> Iterator[h5py.File]:
    """Open an HDF5 file for reading; whatever is damaged about it becomes one `UserError`.

    So does a file that another program is writing.
    """
    try:
        # A small chunk cache: every dataset has one of its own, and each chunk is read once.
        with h5py.File(path, "r", rdcc_nbytes=1 << 20) as file:
            yield file
    except UserError:
        raise
    except BlockingIOError as error:  # HDF5's lock
        raise UserError(f"{path}: another program has it open for writing, expected a closed file") from error
    except Exception as error:  # a damaged type or name gets as far as Python, and fails there in any way
        reason = one_line(error)
        if "already open for write" in reason:  # the mark that a writer takes away when it closes the file
            raise UserError(
                f"{path}: open in a program that writes it, or left so by one that ended without closing it "
                f"(h5clear -s takes that mark away), expected a closed file"
            ) from error
        raise UserError(f"{path}: damaged or not HDF5 ({reason}); expected a complete HDF5 file") from error


@contextlib.contextmanager
def written_hdf5(path: str | os.PathLike[str]) -> Iterator[h5py.File]:
    """A file to fill in the body; it is at `path`, whole, once the body has ended without error.

    It is made in memory: HDF5 crashes the process, as a rule, where a disk fills up under it.

    Raises:
        UserError: it cannot be written.
    """
    whole = io.BytesIO()
    with h5py.File(whole, "w") as file:
        yield file
    atomic_write(path, whole.getvalue())


def has_key(group: h5py.Group, path: Path, key: str) -> bool:
    """Whether there is something under `key`, "a/b" included; links, as into another file, are refused.

    h5py's own `in` would follow a link, and what it leads to may be a pipe that never answers.
    """
    name, _, rest = key.partition("/")
    if not isinstance(group, h5py.Group) or not group.id.links.exists(name.encode()):
        return False
    if group.id.links.get_info(name.encode()).type != h5py.h5l.TYPE_HARD:
        place = f"{group.name}/{name}".lstrip("/")
        raise UserError(f"{path}: key {place!r} is a link, expected the data itself")
    return not rest or has_key(group[name], path, rest)


def get_dataset(file: h5py.File, path: Path, key: str, *, sparse: bool = False) -> h5py.Dataset:
    """The dataset of numbers under `key`; if `sparse`, parts that were never written are read as zeros."""
    if not has_key(file, path, key):
        raise UserError(f"{path}: key {key!r} is missing, expected an array of numbers")
    dataset = file[key]
    if not isinstance(dataset, h5py.Dataset) or dataset.shape is None or dataset.dtype.kind not in "biuf":
        is_group = isinstance(dataset, h5py.Group)
        kind = "a group" if is_group else "empty" if dataset.shape is None else f"of type {dataset.dtype}"
        raise UserError(f"{path}: key {key!r} is {kind}, expected an array of numbers")
    if dataset.is_virtual or dataset.external:
        raise UserError(f"{path}: key {key!r} refers to another file, expected the data itself")
    held = dataset.id.get_storage_size()
    if dataset.nbytes > _MOST_COMPRESSION * held + _HARMLESS_BYTES:
        raise UserError(f"{path}: key {key!r} claims {dataset.nbytes:,} bytes of which {held:,} are there")
    if dataset.chunks is not None and not sparse:
        sides = zip(dataset.shape, dataset.chunks, strict=True)
        expected, written = math.prod(-(-size // side) for size, side in sides), dataset.id.get_num_chunks()
        if 0 < written < expected:  # none at all: zeros that nobody needed to write
            raise UserError(f"{path}: key {key!r} has {written:,} of its {expected:,} chunks, expected all")
    return dataset


def read_matrix(
    file: h5py.File, path: Path, key: str, rows: int | None, width: int | None, *, flatten: bool = False
) -> FloatArray:
    """The finite numbers under `key`, float32 [rows, width] (None: any).

    With `flatten`, rows may be arrays of any shape, and numbers where `width` is 1.
    """
    dataset = get_dataset(file, path, key)
    shape = dataset.shape
    if flatten and (len(shape) > 2 or (len(shape) == 1 and width == 1)):
        shape = shape[0], math.prod(shape[1:])
    check_shape(path, key, shape, (rows, width))
    return finite(path, key, dataset.astype(np.float32)[()].reshape(shape))


def read_vector(file: h5py.File, path: Path, key: str, rows: int) -> FloatArray:
    """The finite numbers under `key`, float32 [rows]; a column [rows, 1] is accepted."""
    dataset = get_dataset(file, path, key)
    _check_column(path, key, dataset.shape, rows)
    return finite(path, key, dataset.astype(np.float32)[()].reshape(-1))


def read_flags(file: h5py.File, path: Path, key: str, rows: int) -> BoolArray:
    """The flags under `key`, bool [rows]; stored as booleans or as the numbers 0 and 1."""
    dataset = get_dataset(file, path, key, sparse=True)
    _check_column(path, key, dataset.shape, rows)
    values = np.asarray(dataset[()]).reshape(-1)
    numbers = values.view(np.uint8) if values.dtype == np.bool_ else values  # a damaged boolean is any byte
    if not np.isin(numbers, (0, 1)).all():
        raise UserError(f"{path}: key {key!r} holds values other than 0 and 1, expected flags")
    return np.asarray(numbers == 1)


def _check_column(path: Path, key: str, shape: tuple[int, ...], rows: int) -> None:
    check_shape(path, key, shape[:1] if shape[1:] == (1,) else shape, (rows,))


def check_shape(
    path: str | os.PathLike[str], key: str, shape: tuple[int, ...], expected: tuple[int | None, ...]
) -> None:
    """Raise unless `shape` is `expected`, where None stands for any size but 0."""
    fits = len(shape) == len(expected) and all(
        size == want or want is None for size, want in zip(shape, expected, strict=True)
    )
    if not fits or 0 in shape:
        want = ", ".join("any" if size is None else str(size) for size in expected)
        raise UserError(f"{path}: key {key!r} has shape {list(shape)}, expected [{want}], none of them 0")


def finite(path: Path, key: str, values: FloatArray) -> FloatArray:
    """The `values` [n, ...], read from `key`; raises `UserError` unless all of them are finite."""
    is_finite = np.isfinite(values)
    if not is_finite.all():
        row = int(np.argwhere(~is_finite)[0][0])
        raise UserError(f"{path}: key {key!r} is NaN or infinite in row {row}, expected finite numbers")
    return values

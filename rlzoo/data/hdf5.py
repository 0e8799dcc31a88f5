"""Reading HDF5 files that may be damaged or made to mislead: every claim is checked before it is believed.

Shapes, types and the file's claims about its own size come first, before anything is allocated; values are
checked while they are read, in blocks, so that no second copy of the data arises. Every function raises
`UserError` with one line that names the file, the key and what was expected.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np

from rlzoo.errors import UserError
from rlzoo.types import BoolArray, FloatArray

_BLOCK_ROWS = 65_536
# Deflate cannot shrink data more than about 1,030-fold; a dataset that claims to is damaged.
_MOST_COMPRESSION = 1_100
_HARMLESS_BYTES = 1 << 26  # arrays that were created and never written hold nothing; small ones may
# What h5py raises on damaged files: the HDF5 library's complaints and, where a damaged type or name gets as
# far as Python, whatever that leads to.
_HDF5_ERRORS = (
    OSError,
    RuntimeError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    OverflowError,
    MemoryError,
)


@contextlib.contextmanager
def open_hdf5(path: Path) -> Iterator[h5py.File]:
    """Open an HDF5 file for reading; whatever is damaged about it becomes one `UserError`."""
    try:
        # A small chunk cache: every dataset has one of its own, and we read each chunk once.
        with h5py.File(path, "r", rdcc_nbytes=1 << 20) as file:
            yield file
    except _HDF5_ERRORS as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{path}: damaged or not HDF5 ({reason}); expected a complete HDF5 file") from error


def has_key(group: h5py.Group, path: Path, key: str) -> bool:
    """Whether there is something under `key`, "a/b" included; only what is in this file itself is looked at.

    h5py's own `in` would follow a link into another file, which may be a device that never answers.
    """
    names = key.encode().split(b"/")
    for count in range(1, len(names) + 1):
        part = b"/".join(names[:count])
        try:
            if not group.id.links.exists(part):
                return False
        except (KeyError, RuntimeError):  # what it should be part of is no group
            return False
        if group.id.links.get_info(part).type != h5py.h5l.TYPE_HARD:
            place = f"{group.name}/{part.decode()}".lstrip("/")
            raise UserError(f"{path}: key {place!r} is a link, expected the data itself")
    return True


def get_dataset(file: h5py.File, path: Path, key: str, *, sparse: bool = False) -> h5py.Dataset:
    """The dataset of numbers under `key`, with its data inside this file.

    All of them were written, too; with `sparse` zeros, as of flags, may have been left to HDF5.
    """
    if not has_key(file, path, key):
        raise UserError(f"{path}: key {key!r} is missing, expected an array of numbers")
    dataset = file[key]
    if isinstance(dataset, h5py.Dataset) and dataset.shape is None:
        raise UserError(f"{path}: key {key!r} is empty, expected an array of numbers")
    if not isinstance(dataset, h5py.Dataset) or (dtype := dataset.dtype).kind not in "biuf":
        kind = "a group" if isinstance(dataset, h5py.Group) else f"data of type {dataset.dtype}"
        raise UserError(f"{path}: key {key!r} is {kind}, expected an array of numbers")
    if dataset.is_virtual or dataset.external:
        raise UserError(f"{path}: key {key!r} refers to another file, expected the data itself")
    claimed, held = dataset.size * dtype.itemsize, dataset.id.get_storage_size()
    if claimed > _MOST_COMPRESSION * held + _HARMLESS_BYTES:
        raise UserError(f"{path}: key {key!r} claims {claimed:,} bytes of which {held:,} are in the file")
    if dataset.chunks is not None:
        chunk = math.prod(dataset.chunks)
        if chunk * dtype.itemsize > claimed + _HARMLESS_BYTES:
            raise UserError(f"{path}: key {key!r} has {dataset.size:,} values in chunks of {chunk:,}")
        # A chunk that was never written reads as zeros. (Nothing written at all: an array left at zero.)
        sides = zip(dataset.shape, dataset.chunks, strict=True)
        expected, written = math.prod(-(-size // side) for size, side in sides), dataset.id.get_num_chunks()
        if 0 < written < expected and not sparse:
            have = f"{written:,} of its {expected:,} chunks"
            raise UserError(f"{path}: key {key!r} has {have}, expected all, zeros written too")
    return dataset


def get_matrix(file: h5py.File, path: Path, key: str, width: int | None, rows: int | None) -> h5py.Dataset:
    """The dataset under `key`, of shape [rows, width] (None: any), not yet read."""
    dataset = get_dataset(file, path, key)
    check_shape(path, key, dataset.shape, (rows, width))
    return dataset


def read_vector(file: h5py.File, path: Path, key: str, rows: int) -> FloatArray:
    """The numbers under `key`, float32 [rows]; a column [rows, 1] is accepted."""
    dataset = get_dataset(file, path, key)
    check_shape(path, key, dataset.shape[:1] if dataset.shape[1:] == (1,) else dataset.shape, (rows,))
    values: FloatArray = dataset.astype(np.float32)[()].reshape(-1)
    check_finite(path, key, values, 0)
    return values


def read_flags(file: h5py.File, path: Path, key: str, rows: int) -> BoolArray:
    """The flags under `key`, bool [rows]; stored as booleans or as the numbers 0 and 1."""
    dataset = get_dataset(file, path, key, sparse=True)
    check_shape(path, key, dataset.shape[:1] if dataset.shape[1:] == (1,) else dataset.shape, (rows,))
    values = dataset[()].reshape(-1)
    numbers = values.view(np.uint8) if values.dtype == np.bool_ else values
    if not ((numbers == 0) | (numbers == 1)).all():
        raise UserError(f"{path}: key {key!r} holds values other than 0 and 1, expected flags")
    return np.asarray(numbers == 1)


def read_matrix(dataset: h5py.Dataset, path: Path) -> FloatArray:
    """All of a dataset [n, w] as float32, every value checked."""
    values = np.empty(dataset.shape, np.float32)
    for begin, end in blocks(dataset):
        dataset.read_direct(values, np.s_[begin:end], np.s_[begin:end])
        check_finite(path, dataset.name, values[begin:end], begin)
    return values


def read_block(dataset: h5py.Dataset, path: Path, begin: int, end: int) -> FloatArray:
    """Rows begin..end-1 of a dataset [n, w] as float32, every value checked."""
    values = np.empty((end - begin, *dataset.shape[1:]), np.float32)
    dataset.read_direct(values, np.s_[begin:end])
    check_finite(path, dataset.name, values, begin)
    return values


def blocks(dataset: h5py.Dataset) -> Iterator[tuple[int, int]]:
    """Ranges of rows that cover a dataset, whole chunks each: a chunk read twice is decompressed twice."""
    chunk = dataset.chunks[0] if dataset.chunks else 1
    rows = max(_BLOCK_ROWS // chunk, 1) * chunk
    for begin in range(0, dataset.shape[0], rows):
        yield begin, min(begin + rows, dataset.shape[0])


def check_shape(
    path: str | os.PathLike[str], key: str, shape: tuple[int, ...], expected: tuple[int | None, ...]
) -> None:
    """Raise unless `shape` is `expected`, where None stands for any size but 0."""
    fits = len(shape) == len(expected) and all(
        size == want if want is not None else size > 0 for size, want in zip(shape, expected, strict=True)
    )
    if not fits or 0 in shape:
        want = ", ".join("any" if size is None else str(size) for size in expected)
        raise UserError(f"{path}: key {key!r} has shape {list(shape)}, expected [{want}], none of them 0")


def check_finite(path: Path, key: str, values: FloatArray, first_row: int) -> None:
    """Raise unless all `values` [n, ...] are finite; their first row is row `first_row` of the data."""
    finite = np.isfinite(values)
    if not finite.all():
        row = first_row + int(np.argwhere(~finite)[0][0])
        raise UserError(f"{path}: key {key!r} is NaN or infinite in row {row}, expected finite numbers")

"""HDF5 files that are damaged or made to mislead."""

import os
import subprocess
import sys

import h5py
import numpy as np
import pytest

from rlzoo.data.load import load_episodes
from tests.helpers.demo_files import counting_rows, expect_one_line, write_rows


def test_claims_of_giant_arrays_are_refused_before_they_are_allocated(tmp_path):
    path = tmp_path / "giant.hdf5"
    with h5py.File(path, "w") as file:
        for key, shape in (("observations", (10**12, 11)), ("actions", (10**12, 3))):
            file.create_dataset(key, shape, np.float32, chunks=(1000, shape[1]))
        for key in ("rewards", "terminals"):
            file.create_dataset(key, (10**12,), np.float32, chunks=(1000,))
    expect_one_line(path, "'observations'", "44,000,000,000,000")


def test_what_holds_nothing_is_named(tmp_path):
    rows = counting_rows(3)
    del rows["rewards"]
    for name, put in (
        ("link to nothing", lambda file: file.__setitem__("rewards", h5py.SoftLink("/nowhere"))),
        ("is empty", lambda file: file.__setitem__("rewards", h5py.Empty("f4"))),
    ):
        path = write_rows(tmp_path / f"{name}.hdf5", rows)
        with h5py.File(path, "a") as file:
            put(file)
        expect_one_line(path, "'rewards'", name)


def test_data_outside_the_file_are_refused(tmp_path):
    rows = counting_rows(3)
    write_rows(tmp_path / "other.hdf5", rows)
    del rows["rewards"]
    path = write_rows(tmp_path / "a.hdf5", rows)
    with h5py.File(path, "a") as file:
        file["rewards"] = h5py.ExternalLink("other.hdf5", "rewards")
    expect_one_line(path, "'rewards'", "is a link")
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(12))
    path = write_rows(tmp_path / "b.hdf5", rows)
    with h5py.File(path, "a") as file:
        file.create_dataset("rewards", (3,), np.float32, external=str(secret))
    expect_one_line(path, "'rewards'", "another file")


@pytest.mark.parametrize(
    "name", ["observations", "rewards", "timeouts", "next_observations", "infos/success"]
)
def test_a_link_to_a_device_that_never_answers_is_not_followed(tmp_path, name):
    os.mkfifo(tmp_path / "pipe")
    rows = counting_rows(3)
    rows.pop(name, None)
    path = write_rows(tmp_path / "a.hdf5", rows)
    with h5py.File(path, "a") as file:
        group, _, link = name.rpartition("/")
        (file.require_group(group) if group else file)[link] = h5py.ExternalLink("pipe", "x")
    # In a process of its own: HDF5 waits where no signal reaches it.
    code = "import sys; from rlzoo.data.load import load_episodes; load_episodes(sys.argv[1])"
    result = subprocess.run([sys.executable, "-c", code, path], timeout=60, capture_output=True, text=True)
    assert result.stderr.endswith(f"UserError: {path}: key {name!r} is a link, expected the data itself\n")


def test_values_that_were_never_written_are_not_read_as_zeros(tmp_path):
    rows = counting_rows(40)
    for name in ("observations", "rewards"):
        path = write_rows(tmp_path / f"{name}.hdf5", {k: v for k, v in rows.items() if k != name})
        with h5py.File(path, "a") as file:
            values = rows[name]
            chunks = (15, *values.shape[1:])
            file.create_dataset(name, values.shape, values.dtype, chunks=chunks)[:10] = values[:10]
        expect_one_line(path, f"'{name}'", "1 of its 3 chunks")
        with h5py.File(path, "a") as file:
            del file["timeouts"]
            file.create_dataset("timeouts", (40,), bool, chunks=(15,))[39] = True  # flags may be left unset
        with h5py.File(path, "a") as file:
            file[name][:] = values
        assert len(load_episodes(path)) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "another program has it open for writing"),
        ({"libver": "latest"}, "open in a program that writes it"),
    ],
    ids=["locked", "single writer, many readers"],
)
def test_a_file_that_a_writer_holds_open_is_not_called_damaged(tmp_path, options, message):
    path = tmp_path / "a.hdf5"
    code = (
        "import sys, h5py; options = eval(sys.argv[2]); file = h5py.File(sys.argv[1], 'w', **options)\n"
        "file['observations'] = [[1.0]]\n"
        "if options: file.swmr_mode = True\n"
        "file.flush(); print('open', flush=True); input()"
    )
    command = [sys.executable, "-c", code, path, repr(options)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as writer:
        try:
            assert writer.stdout.readline() == "open\n"
            expect_one_line(path, message, "expected a closed file")
        finally:
            writer.kill()

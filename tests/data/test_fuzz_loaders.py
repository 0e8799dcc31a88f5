"""Damaged files: an error or right shapes, never a crash, a hang or a silently wrong array."""

import faulthandler
import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from experiments.torture import EDITS, damage
from rlzoo.data.load import load_episodes
from rlzoo.data.unpickle import load_pickle
from rlzoo.errors import UserError
from tests.helpers.demo_files import counting_rows, real_file, write_rows

FUZZ = settings(
    max_examples=250,
    deadline=None,  # a busy machine is no hang: see `_no_hang`
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

# Where (as a fraction of the file) and what: set a byte, flip a bit, delete, repeat or move a block, cut.
DAMAGES = st.lists(
    st.tuples(
        st.sampled_from(EDITS),
        st.floats(0, 1, exclude_max=True),
        st.floats(0, 1, exclude_max=True),
        st.integers(0, 255),
    ),
    min_size=1,
    max_size=8,
)


@pytest.fixture(autouse=True)
def _no_hang():
    """End the whole run with a traceback if a file holds the C library for more than five minutes."""
    faulthandler.dump_traceback_later(300, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


def attempt(load: Callable[[], Any]) -> tuple[Any, str | None]:
    """What `load` returns, or the message of its `UserError`; any other error fails the test."""
    try:
        return load(), None
    except UserError as error:
        return None, str(error)


def check(path: Path, data: bytes, *, state_dim: int, action_dim: int, steps: int) -> None:
    path.write_bytes(data)
    episodes, message = attempt(partial(load_episodes, path, state_dim=state_dim, action_dim=action_dim))
    if message is not None:
        assert str(path) in message
        assert "\n" not in message
        return
    assert 0 < sum(map(len, episodes)) <= steps
    for episode in episodes:
        assert len(episode) > 0
        assert episode.obs["state"].shape == (len(episode) + 1, state_dim)
        assert episode.action.shape == (len(episode), action_dim)
        assert episode.reward.shape == (len(episode),)
        for array in (episode.obs["state"], episode.action, episode.reward):
            assert array.dtype == np.float32
            assert np.isfinite(array).all()
        assert np.abs(episode.action).max() <= 1
        assert type(episode.terminated) is bool


@pytest.fixture(scope="module")
def real_hdf5(tmp_path_factory) -> bytes:
    """The first 300 steps of a real file, compressed in several chunks, small enough to hit every part."""
    source = real_file("d4rl_format/hopper_medium-v4.hdf5")
    path = tmp_path_factory.mktemp("fuzz") / "real.hdf5"
    with h5py.File(source) as old, h5py.File(path, "w") as new:
        for key in ("observations", "actions", "rewards", "next_observations", "terminals", "timeouts"):
            new.create_dataset(
                key, data=old[key][:300], compression="gzip", chunks=(100, *old[key].shape[1:])
            )
    return path.read_bytes()


@pytest.fixture(scope="module")
def real_pickle() -> bytes:
    """Two of the real human demonstrations, each cut to 20 steps, written as the real file is."""
    records = load_pickle(real_file("adroit/door-v0_demos.pickle"))[:2]
    cut = [{key: record[key][:20] for key in ("observations", "actions", "rewards")} for record in records]
    return pickle.dumps(cut, 3)


@FUZZ
@given(edits=DAMAGES)
def test_real_d4rl(tmp_path, real_hdf5, edits):
    data = damage(real_hdf5, edits)
    check(tmp_path / "a.hdf5", data, state_dim=11, action_dim=3, steps=300)


@FUZZ
@given(edits=DAMAGES)
def test_real_adroit(tmp_path, real_pickle, edits):
    check(tmp_path / "a.pickle", damage(real_pickle, edits), state_dim=39, action_dim=28, steps=40)


@pytest.fixture(scope="module")
def plain_hdf5(tmp_path_factory) -> bytes:
    """A D4RL file without compression or next observations: nothing but the structure protects the values."""
    rows = counting_rows(30)
    del rows["next_observations"]
    rows["terminals"][7] = rows["timeouts"][19] = True
    return write_rows(tmp_path_factory.mktemp("fuzz") / "a.hdf5", rows).read_bytes()


@FUZZ
@given(edits=DAMAGES)
def test_plain_d4rl(tmp_path, plain_hdf5, edits):
    check(tmp_path / "a.hdf5", damage(plain_hdf5, edits), state_dim=2, action_dim=2, steps=30)


@pytest.fixture(scope="module")
def minari_hdf5(tmp_path_factory) -> bytes:
    """Two Minari episodes."""
    rows = {}
    for index, steps in enumerate((6, 9)):
        part = counting_rows(steps)
        rows |= {
            f"episode_{index}/observations": np.zeros((steps + 1, 2)),
            f"episode_{index}/actions": part["actions"],
            f"episode_{index}/rewards": part["rewards"],
            f"episode_{index}/terminations": part["terminals"],
            f"episode_{index}/truncations": part["timeouts"],
        }
    path = tmp_path_factory.mktemp("fuzz") / "a.hdf5"
    return write_rows(path, rows, maxshape=None, chunks=True).read_bytes()


@FUZZ
@given(edits=DAMAGES)
def test_minari(tmp_path, minari_hdf5, edits):
    check(tmp_path / "main_data.hdf5", damage(minari_hdf5, edits), state_dim=2, action_dim=2, steps=15)


@FUZZ
@given(protocol=st.sampled_from([0, 2, 4, 5]), edits=DAMAGES)
def test_generated_pickles(tmp_path, protocol, edits):
    rows = counting_rows(5)
    record = {key: rows[key] for key in ("observations", "actions", "rewards")}
    data = damage(pickle.dumps([record], protocol), edits)
    check(tmp_path / "a.pickle", data, state_dim=2, action_dim=2, steps=5)


@FUZZ
@given(data=st.binary(max_size=200), start=st.sampled_from([b"", b"\x80\x02", b"\x80\x04\x95", b"]", b"("]))
def test_any_bytes(tmp_path, start, data):
    check(tmp_path / "a.bin", start + data, state_dim=2, action_dim=2, steps=5)


VALUES = [b"N", b"K\x05", b"]", b"}", b"X\x01\x00\x00\x00x", b"X\x02\x00\x00\x00f8", b"C\x02ab"]
STACK = [
    b"(",
    b"t",
    b"\x85",
    b"\x86",
    b"\x87",
    b"a",
    b"e",
    b"s",
    b"u",
    b"0",
    b"2",
    b"q\x00",
    b"h\x00",
    b"\x94",
]
NAMES = [b"numpy\nndarray", b"numpy\ndtype", b"numpy.core.multiarray\n_reconstruct", b"_codecs\nencode"]
NAMES += [b"numpy.core.multiarray\nscalar", b"numpy._core.numeric\n_frombuffer"]
CALLS = [b"R", b"b", b"\x81", b"\x93"]
PIECES = st.sampled_from([*VALUES, *STACK, *CALLS, *(b"c" + name + b"\n" for name in NAMES)])


@FUZZ
@given(pieces=st.lists(PIECES, max_size=30))
def test_pickle_programs(tmp_path, pieces):
    path = tmp_path / "a.pickle"
    path.write_bytes(b"\x80\x02" + b"".join(pieces) + b".")
    _, message = attempt(partial(load_pickle, path))
    assert message is None or str(path) in message

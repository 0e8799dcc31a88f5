"""Pickles are read as data, whatever they ask for."""

import os
import pickle
import time
import tracemalloc

import numpy as np
import pytest

from rlzoo.data.load import load_episodes
from rlzoo.data.unpickle import Record, load_pickle
from rlzoo.errors import UserError
from tests.helpers.demo_files import adroit_record, expect_one_line, real_file


def test_pickles_of_python_2(tmp_path):
    # As Python 2 writes a [2, 1] array of doubles in protocol 0: bytes as escaped text, latin1.
    values = np.array([[0.1], [-7.5e33]])
    text = repr(values.tobytes())[1:]
    path = tmp_path / "a.pickle"
    path.write_bytes(
        b"(lp0\n(dp1\nS'observations'\np2\ncnumpy.core.multiarray\n_reconstruct\np3\n(cnumpy\nndarray\np4\n"
        b"(I0\ntp5\nS'b'\np6\ntp7\nRp8\n(I1\n(I2\nI1\ntp9\ncnumpy\ndtype\np10\n(S'f8'\np11\nI0\nI1\ntp12\n"
        b"Rp13\n(I3\nS'<'\np14\nNNNI-1\nI-1\nI0\ntp15\nbI00\nS" + text.encode() + b"\np16\ntp17\nbsa."
    )
    (record,) = load_pickle(path)
    np.testing.assert_array_equal(record["observations"], values)


def test_unpickler_reads_what_numpy_writes(tmp_path):
    value = {
        "fortran": np.asfortranarray(np.arange(6, dtype=">i4").reshape(2, 3)),
        "empty": np.zeros((0, 4)),
        "scalar": np.float32(2.5),
        "flags": np.array([True, False]),
        "plain": [1, 2.5, "x", None, True, b"ab\xff", b"", (1, 2), {"y": -(10**30)}],
    }
    path = tmp_path / "a.pickle"
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        path.write_bytes(pickle.dumps(value, protocol))
        read = load_pickle(path)
        assert read["plain"] == value["plain"]
        for key in ("fortran", "empty", "scalar", "flags"):
            np.testing.assert_array_equal(read[key], value[key])
            assert read[key].dtype.newbyteorder("=") == value[key].dtype.newbyteorder("=")


class Payload:
    """Pickles to a call of `os.mkdir` with the path it was given."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


class Thing:
    def __init__(self):
        self.colour = np.arange(3.0)


def test_pickles_execute_nothing(tmp_path):
    path, target = tmp_path / "evil.pickle", tmp_path / "made"
    for value in (
        [Payload(target)],
        [{"observations": Payload(target)}],
        [np.array([Payload(target)], dtype=object)],
        {Payload(target): 1},
    ):
        path.write_bytes(pickle.dumps(value))
        with pytest.raises(UserError, match="expected a pickle of arrays in plain containers"):
            load_pickle(path)
        assert not target.exists()
    path.write_bytes(pickle.dumps([Payload(target)]))
    expect_one_line(path, "mkdir", "allow-list")


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x02cos\nsystem\n(S'true'\ntR.",
        b"\x80\x02cbuiltins\neval\n(S'1'\ntR.",
        b"\x80\x02cnumpy\nndarray\n(K\x05tR.",  # numpy.ndarray called directly
        b"\x80\x02cnumpy\ndtype\n(X\x02\x00\x00\x00O8tR.",  # an array of objects
        b"\x80\x02cnumpy\ndtype\n}X\x01\x00\x00\x00xK\x01sb.",  # a dtype's attributes set
        b"\x80\x02cnumpy\nndarray\n.",  # a type in place of a value
        b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x04true\x85R.",  # STACK_GLOBAL
        b"\x80\x02(cos\nsystem\no.",  # OBJ
        b"(S'true'\nios\nsystem\n.",  # INST
        b"\x80\x02Pwho\n.",  # a persistent id
        b"\x80\x02\x82\x01.",  # the extension registry
        b"\x80\x02]q\x00h\x00a.",  # a list that contains itself
        b"\x80\x02" + b"]" * 1_000_000 + b"a" * 999_999 + b".",  # nested deeply
        b"\x80\x02N",
        b"\x80",
    ],
)
def test_pickles_that_are_refused(tmp_path, data):
    (tmp_path / "a.pickle").write_bytes(data)
    expect_one_line(tmp_path / "a.pickle")


# A pair of pairs of pairs …, each the same object twice: bytes that would take 2^40 steps to walk through. It
# alone is left on the stack: the pair before is popped (0) before the next is made of it.
PAIRS = b")q\x00" + b"".join(b"0h%ch%c\x86q%c" % (index, index, index + 1) for index in range(40))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\x80\x02}" + PAIRS + b"Ns.", "key is not text"),  # by SETITEM
        (b"\x80\x02}(" + PAIRS + b"Nu.", "key is not text"),  # by SETITEMS
        (b"\x80\x02(" + PAIRS + b"Nd.", "key is not text"),  # by DICT
        (b"\x80\x02" + PAIRS + b"0}h\x28Ns.", "key is not text"),  # from the memo
        (b"\x80\x02}" + PAIRS + b"NbNs.", "state of a tuple"),  # after a BUILD that changes nothing
        (b"\x80\x02}" + PAIRS + b"(eNs.", "'tuple' object has no"),  # after an APPENDS of nothing
        (b"\x80\x02}" + PAIRS + b"(uNs.", "key is not text"),  # after a SETITEMS of nothing
        (b"\x80\x02](" + PAIRS + b"e.", "expected a list of dictionaries"),  # as a value
        (b"\x80\x02cnumpy\ndtype\n(" + PAIRS + b"tR.", "got 'tuple'"),
        (
            b"\x80\x02cnumpy._core.numeric\n_frombuffer\n(U\x01acnumpy\ndtype\n(X\x02\x00\x00\x00i1K\x00K\x01tR"
            + PAIRS
            + b"X\x01\x00\x00\x00CtR.",
            "no array's shape",
        ),
        (b"\x80\x02N" + b"2\x86" * 40 + b".", "holds a tuple"),  # by DUP, which no pickler writes
        (b"\x80\x02Nr\xff\xff\xff\xff.", "holds a NoneType"),  # a memo of 4 billion entries
        (b"\x80\x05\x96\xff\xff\xff\xff\xff\xff\xff\x7f.", "truncated"),  # a byte array of 8 EiB
        (b"\x80\x05\x96\x00\x00\x00\x40\x00\x00\x00\x00.", "truncated"),  # one of 1 GiB
        (
            b"\x80\x02](c_codecs\nencode\nq\x00X\x40\x42\x0f\x00"
            + b"a" * 1_000_000
            + b"q\x01X\x06\x00\x00\x00latin1q\x02\x86R"
            + b"h\x00h\x01h\x02\x86R" * 20_000
            + b"e.",
            "more bytes than the file has",  # 20 GB from one text
        ),
        (
            b"\x80\x02](cnumpy.core.multiarray\n_reconstruct\nq\x00cnumpy\ndtype\nX\x02\x00\x00\x00u1\x85Rq\x02X\x40\x42\x0f\x00"
            + b"a" * 1_000_000
            + b"q\x03"
            + b"h\x00)R(K\x01J\x40\x42\x0f\x00\x85h\x02\x89h\x03tb" * 20_000
            + b"e.",
            "more bytes than the file has",  # 20 GB of arrays from one text of Python 2
        ),
    ],
)
def test_small_pickles_of_something_enormous_are_refused_at_once(tmp_path, data, reason):
    path = tmp_path / "a.pickle"
    path.write_bytes(data)
    started = time.process_time()
    tracemalloc.start()
    expect_one_line(path, reason)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert time.process_time() - started < 5
    assert peak < 100 * len(data) + 1_000_000


def test_records_without_a_state_have_no_fields(tmp_path):
    path, bare = tmp_path / "a.pickle", Thing.__new__(Thing)
    path.write_bytes(pickle.dumps([Thing(), bare, Thing(), Thing.__new__(Thing)], 2))
    read = load_pickle(path, records=[f"{Thing.__module__}.Thing"])
    assert [set(record.fields) for record in read] == [{"colour"}, set(), {"colour"}, set()]


def test_what_shares_its_contents_within_reason_is_read(tmp_path):
    path, shared = tmp_path / "a.pickle", {"x": (1, 2), "y": np.arange(3.0)}
    path.write_bytes(pickle.dumps([shared] * 1000))
    read = load_pickle(path)
    assert len(read) == 1000
    assert read[0] is read[999]
    assert read[0]["x"] == (1, 2)


def test_what_follows_a_pickle_is_not_left_unread(tmp_path):
    path = tmp_path / "a.pickle"
    path.write_bytes(2 * pickle.dumps([adroit_record(3)]))
    expect_one_line(path, "is not that of the file")
    path.write_bytes(pickle.dumps([adroit_record(3)]) + b"\n")
    assert len(load_episodes(path)) == 1


def test_array_states_that_do_not_fit_are_refused(tmp_path):
    good = pickle.dumps(np.arange(6.0), 2)
    path = tmp_path / "a.pickle"
    for change in (
        (b"K\x06\x85", b"K\x07\x85"),
        (b"K\x06\x85", b"K\x05\x85"),
        (b"f8", b"f4"),
        (b"f8", b"U2"),
    ):
        assert change[0] in good
        path.write_bytes(good.replace(*change))
        with pytest.raises(UserError):
            load_pickle(path)


def test_records_stand_in_for_classes(tmp_path):
    path = tmp_path / "a.pickle"
    path.write_bytes(pickle.dumps([Thing()], 2))
    name = f"{Thing.__module__}.Thing"
    with pytest.raises(UserError, match="allow-list"):
        load_pickle(path)
    (thing,) = load_pickle(path, records=[name])
    assert isinstance(thing, Record)
    np.testing.assert_array_equal(thing.fields["colour"], [0, 1, 2])


@pytest.mark.parametrize("episode", [0, 1, 2])
def test_real_rlbench_pickles_are_read_as_records(episode):
    path = real_file(f"rlbench/reach_target/variation0/episodes/episode{episode}/low_dim_obs.pkl")
    with pytest.raises(UserError, match=r"rlbench\.demo\.Demo"):
        load_pickle(path)
    demo = load_pickle(path, records=["rlbench.demo.Demo", "rlbench.backend.observation.Observation"])
    observations = demo.fields["_observations"]
    assert len(observations) == (70, 64, 57)[episode]
    assert observations[0].fields["joint_positions"].shape == (7,)

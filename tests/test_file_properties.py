"""Laws of files, on what hypothesis draws: datasets come back as they were, bytes are refused."""

import functools
import io
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numbered_episode import numbered_episode

from flowshield.data import Episode, TrajectoryDataset
from flowshield.data.conversion import convert
from flowshield.data.restricted_pickle import load_plain_pickle
from flowshield.errors import DataError, FileFormatError, FlowshieldError
from flowshield.models import BaseShield, QuantileShield, UDRLAgent
from flowshield.models.shields import ExchangeablePairs
from flowshield.plain_pickle import read_plain_pickle

ARRAYS = (
    "states", "actions", "rewards", "terminated", "truncated", "final_states", "behaviours",
    "levels", "episode_indices", "episode_starts", "requests",
)  # fmt: skip
FORMATS = ("npz", "pkl", "parquet")


def examples(number):
    """The same examples in every run, of which none is too slow on a busy machine."""
    return settings(
        max_examples=number,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("files")


# ---------------------------------------------------------------- datasets come back


def numbers(*shape, dtype=np.float32, largest=None):
    width = 8 * np.dtype(dtype).itemsize
    bounds = {} if largest is None else {"min_value": -largest, "max_value": largest}
    finite = st.floats(width=width, allow_nan=False, allow_infinity=False, **bounds)
    return arrays(dtype, shape, elements=finite)


letters = st.characters(codec="utf-8", exclude_characters="\0")


finite = st.floats(allow_nan=False, allow_infinity=False)
requests = st.tuples(st.floats(min_value=1, allow_infinity=False), finite)


@st.composite
def episodes(draw):
    """One to four, of one size; sums of their rewards fit into float32, as those of data must."""
    state_dim, action_dim = draw(st.integers(1, 3)), draw(st.integers(1, 2))
    n_actions = draw(st.none() | st.integers(1, 5))
    whole = arrays(np.int64, (1,), elements=st.integers(0, (n_actions or 1) - 1))
    made = []
    for length in draw(st.lists(st.integers(1, 6), min_size=1, max_size=4)):
        ends = draw(st.sampled_from([(True, False), (False, True), (True, True)]))
        if n_actions is None:
            actions = draw(numbers(length, action_dim))
        else:
            actions = np.stack([draw(whole) for _ in range(length)])
        made.append(
            Episode(
                states=draw(numbers(length, state_dim)),
                final_state=draw(numbers(state_dim)),
                actions=actions,
                rewards=draw(numbers(length, dtype=np.float64, largest=1e37)),
                terminated=ends[0],
                truncated=ends[1],
                behaviour=draw(st.text(letters, max_size=8)),
                level=draw(st.floats()),
                index=draw(st.integers(-(2**63), 2**63 - 1)),
                request=draw(st.none() | requests),
            )
        )
    metadata = {"note": draw(st.text(max_size=8)), "seed": draw(st.integers())}
    return made, metadata if n_actions is None else {**metadata, "n_actions": n_actions}


def assert_same(one, other):
    for name in ARRAYS:
        a, b = getattr(one, name), getattr(other, name)
        if a is None:  # final states in a file of an older FlowShield, requests in most
            assert b is None, name
            continue
        assert a.dtype.kind == b.dtype.kind and a.shape == b.shape, name
        if name == "behaviours":  # as wide as the longest name, or wider
            assert a.tolist() == b.tolist()
        else:
            assert a.dtype == b.dtype and a.tobytes() == b.tobytes(), name
    for key in one.metadata.keys() - {"format_version", "flowshield_version", "n_parts"}:
        assert repr(one.metadata[key]) == repr(other.metadata[key])


def cleared(path):
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    return path


@examples(40)
@given(drawn=episodes(), first=st.sampled_from(FORMATS), second=st.sampled_from(FORMATS))
def test_a_dataset_comes_back_bit_by_bit_also_by_way_of_another_format(
    folder, drawn, first, second
):
    dataset = TrajectoryDataset.from_episodes(*drawn)
    here, there = (cleared(folder / name) for name in (f"a.{first}", f"b.{second}"))
    dataset.save(here)
    assert_same(dataset, TrajectoryDataset(here))
    convert(here, there)
    assert_same(dataset, TrajectoryDataset(there))


# ---------------------------------------------------------------- bytes are refused


def valid_episodes():
    return [
        numbered_episode(2, 2, behaviour="controller", level=1.0),
        numbered_episode(3, 3, behaviour="näher", level=1.5, truncated=True, request=(3, 9)),
    ]


def valid_shield():
    shield = QuantileShield(2, hidden_dim=4, n_layers=1, n_quantiles=4)
    rng = np.random.default_rng(0)
    pairs = rng.normal(size=(30, 2)).astype(np.float32), rng.normal(size=(30, 2)) + 50
    shield.calibrate(ExchangeablePairs(pairs[0], pairs[1].astype(np.float32)), 0.1)
    return shield


PART, MANIFEST = "data.parquet/part-00000.parquet", "data.parquet/flowshield.json"
READERS = {
    "data.npz": TrajectoryDataset,
    "data.pkl": TrajectoryDataset,
    PART: lambda path: TrajectoryDataset(path.parent),
    MANIFEST: lambda path: TrajectoryDataset(path.parent),
    "agent.pt": UDRLAgent.load,
    "shield.pt": BaseShield.load,
}


@functools.cache
def valid_files(folder):
    dataset = TrajectoryDataset.from_episodes(valid_episodes(), {"seed": 0})
    for suffix in FORMATS:
        dataset.save(folder / f"data.{suffix}")
    UDRLAgent(2, 1, hidden_dim=4, n_layers=1).save(folder / "agent.pt")
    valid_shield().save(folder / "shield.pt")
    return {name: (folder / name).read_bytes() for name in READERS}


def read_or_refused(path: Path):
    """What is read of a file, or None where it is refused by its name."""
    name = str(path.relative_to(path.parents[1] if "parquet" in path.parent.name else path.parent))
    try:
        return READERS[name](path)
    except FlowshieldError as error:
        assert name.split("/")[0] in str(error)
        return None


@examples(50)
@given(content=st.binary(max_size=300))
@pytest.mark.parametrize("name", READERS)
def test_any_bytes_are_refused_by_the_files_name(folder, name, content):
    valid = valid_files(folder)[name]
    (folder / name).write_bytes(content)
    try:
        assert read_or_refused(folder / name) is None
    finally:
        (folder / name).write_bytes(valid)


place = st.floats(0, 1, exclude_max=True)
changes = st.one_of(
    st.tuples(st.just("flip"), place, st.integers(0, 7)),
    st.tuples(st.just("cut"), place, st.none()),
    st.tuples(st.just("insert"), place, st.binary(min_size=1, max_size=16)),
    st.tuples(st.just("overwrite"), place, st.binary(min_size=1, max_size=16)),
    st.tuples(st.just("drop"), place, st.integers(1, 64)),
)


def changed(content, kind, share, value):
    start = int(share * len(content))
    head, tail = content[:start], content[start:]
    if kind == "cut" or not tail:
        return head
    if kind == "flip":
        return head + bytes([tail[0] ^ 1 << value]) + tail[1:]
    if kind == "insert":
        return head + value + tail
    return head + (tail[value:] if kind == "drop" else value + tail[len(value) :])


@examples(150)
@given(drawn=st.lists(changes, min_size=1, max_size=3))
@pytest.mark.parametrize("name", READERS)
def test_a_changed_file_is_refused_by_name_or_can_be_used(folder, name, drawn):
    valid = valid_files(folder)[name]
    content = valid
    for change in drawn:
        content = changed(content, *change)
    (folder / name).write_bytes(content)
    try:
        read = read_or_refused(folder / name)
        if isinstance(read, TrajectoryDataset):  # what was read can be written and read again
            for suffix in FORMATS:
                read.save(cleared(folder / f"again.{suffix}"))
                assert_same(read, TrajectoryDataset(folder / f"again.{suffix}"))
    finally:
        (folder / name).write_bytes(valid)


# ---------------------------------------------------------------- names of behaviours


@pytest.mark.parametrize(
    "name", ["\ud800", "a\0b", "a" * 1001, "ä" * 501], ids=["surrogate", "NUL", "long", "ä"]
)
def test_a_name_that_not_every_format_can_hold_is_refused_where_it_enters(name):
    """A lone surrogate is no UTF-8, Arrow cuts at a NUL, and long names are refused in Parquet."""
    with pytest.raises(DataError, match="behaviours"):
        TrajectoryDataset.from_episodes([replace(valid_episodes()[0], behaviour=name)])


@pytest.mark.parametrize("letter", [0x110000, 0xFFFFFFFF])
def test_names_of_what_is_no_letter_are_refused(folder, letter):
    """numpy takes any 32 bits for a letter, and makes text of it that Python does not know."""
    with np.load(io.BytesIO(valid_files(folder)["data.npz"])) as archive:
        table = dict(archive)
    letters = table["behaviours"].copy().view(np.uint32)
    letters[0] = letter
    np.savez(
        folder / "letters.npz", **table | {"behaviours": letters.view(table["behaviours"].dtype)}
    )
    with pytest.raises(DataError, match=r"letters\.npz.*behaviours"):
        TrajectoryDataset(folder / "letters.npz")


def test_metadata_of_what_is_no_letter_are_refused(folder):
    """Such a key was read, and was another one in the file that it was written to."""
    with np.load(io.BytesIO(valid_files(folder)["data.npz"])) as archive:
        table = dict(archive)
    letters = np.atleast_1d(table["metadata"]).copy().view(np.uint32)
    letters[2] = 0x110000
    damaged = letters.view(table["metadata"].dtype).reshape(())
    np.savez(folder / "letters.npz", **table | {"metadata": damaged})
    with pytest.raises(FileFormatError, match=r"letters\.npz: its metadata.*no character"):
        TrajectoryDataset(folder / "letters.npz")


# ---------------------------------------------------------------- plain pickles

keys = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
leaves = keys | st.floats() | st.text(st.characters(), max_size=300)
plain = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.lists(inner, max_size=5).map(tuple)
        | st.dictionaries(keys, inner, max_size=5)
    ),
    max_leaves=20,
)
PLAIN = (type(None), bool, int, float, str, bytes, bytearray, list, tuple, dict)
PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


def alike(one, other):
    """Equal, of equal types all the way down, and NaN is NaN."""
    return repr(one) == repr(other)


@examples(150)
@given(value=plain)
def test_plain_values_come_back_at_every_protocol(value):
    for protocol in PROTOCOLS:
        assert alike(read_plain_pickle(pickle.dumps(value, protocol), {}), value)


@examples(50)
@given(value=st.binary(max_size=300), more=st.lists(plain, max_size=2))
def test_bytes_come_back_at_the_protocols_that_know_them(value, more):
    for protocol in PROTOCOLS[3:]:
        assert alike(read_plain_pickle(pickle.dumps([value, *more], protocol), {}), [value, *more])
    found = read_plain_pickle(pickle.dumps([bytearray(value)], 5), {})
    assert alike(found, [bytearray(value)])


@examples(50)
@given(
    value=arrays(
        st.sampled_from(["<f4", ">f8", "<i8", "?", "u1", "<U3", "S2", "c16"]),
        st.lists(st.integers(1, 4), max_size=3).map(tuple),
    )
)
def test_arrays_come_back_at_every_protocol(value):
    for protocol in PROTOCOLS:
        found = load_plain_pickle(io.BytesIO(pickle.dumps({"a": value}, protocol)))["a"]
        assert (found.dtype, found.shape) == (value.dtype, value.shape)
        assert found.tobytes() == value.tobytes()


@examples(300)
@given(content=st.binary(max_size=60), drawn=st.lists(changes, max_size=3), value=plain)
def test_no_pickle_makes_more_than_plain_values_or_an_ordinary_error(content, drawn, value):
    damaged = pickle.dumps(value)
    for change in drawn:
        damaged = changed(damaged, *change)
    for pickled in (content, damaged):
        try:
            found = read_plain_pickle(pickled, {})
        except Exception:  # of any kind: whoever reads a pickle expects that of a damaged one
            continue
        assert isinstance(found, PLAIN)

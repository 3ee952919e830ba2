"""Minari datasets: both ways, whatever recorded them, and every way in which one can be wrong."""

import json
import warnings
import zipfile
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from numbered_episode import numbered_episode

from flowshield.cli import main
from flowshield.data import DataCollector, TrajectoryDataset
from flowshield.envs import make_env
from flowshield.errors import ConfigError, DataError, FileFormatError, ShapeError

minari = pytest.importorskip("minari")
h5py = pytest.importorskip("h5py")

from minari.data_collector.episode_buffer import EpisodeBuffer  # noqa: E402
from minari.dataset.minari_storage import MinariStorage  # noqa: E402

ARRAYS = (
    "states", "actions", "rewards", "terminated", "truncated", "final_states", "behaviours",
    "levels", "episode_indices", "episode_starts",
)  # fmt: skip
COMMITTED = Path(__file__).with_name("minari_pendulum.zip")
PENDULUM = "minari:pendulum/random-v0"
BEHAVIOUR = {"components": [{"kind": "controller", "weight": 1}, {"kind": "random", "weight": 1}]}


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    """Where Minari looks for its datasets."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "minari"


def collect_with_minari(root):
    """What COMMITTED holds: nothing but Minari's own collector and a random policy."""
    pytest.importorskip("jax")  # 350 MB, and the collector needs it
    env = minari.DataCollector(gym.make("Pendulum-v1", max_episode_steps=20))
    env.action_space.seed(0)
    for seed in range(30):
        env.reset(seed=seed)
        truncated = False
        while not truncated:
            _, _, _, truncated, _ = env.step(env.action_space.sample())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that nobody named an evaluation environment
        env.create_dataset("pendulum/random-v0", algorithm_name="random", author="someone")
    env.close()


def unpack(root):
    with zipfile.ZipFile(COMMITTED) as archive:
        archive.extractall(root)


BY_MINARI = pytest.mark.parametrize("made", [unpack, collect_with_minari])


@pytest.fixture(scope="module")
def lander():
    env = make_env("lunarlander", enable_wind=True, max_episode_steps=90)
    return DataCollector(env, behaviour=BEHAVIOUR).collect(6, seed=3)


def assert_same(read, written):
    for name in ARRAYS:
        one, other = getattr(read, name), getattr(written, name)
        assert one.dtype == other.dtype, name
        np.testing.assert_array_equal(one, other, err_msg=name)
    assert read.metadata == written.metadata


def assert_same_minari(one, other):
    """Equal array by array and fact by fact, except for what must differ: its id and its size."""
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        for name in ("observations", "actions", "rewards", "terminations", "truncations"):
            first, second = getattr(a, name), getattr(b, name)
            assert first.dtype == second.dtype, name
            np.testing.assert_array_equal(first, second, err_msg=name)
    ours = {"flowshield", "dataset_id", "dataset_size"}
    facts = [
        {name: fact for name, fact in dataset.storage.metadata.items() if name not in ours}
        for dataset in (one, other)
    ]
    assert facts[0] == facts[1]
    numbers = range(len(one))
    for a, b in zip(
        one.storage.get_episode_metadata(numbers),
        other.storage.get_episode_metadata(numbers),
        strict=True,
    ):
        assert {name: b[name] for name in a} == a


def test_what_flowshield_writes_comes_back(lander):
    assert {"controller", "random"} == set(lander.behaviours.tolist())
    assert lander.terminated.any() and lander.truncated.any()
    lander.save("minari:lander/mixed-v0")
    assert_same(TrajectoryDataset("minari:lander/mixed-v0"), lander)
    some = lander.subset([4, 1])
    some.save("minari:some-v0")
    assert_same(TrajectoryDataset("minari:some-v0"), some)


def asked():
    requests = ((5, -2.5), None, (3, 1e9))
    return TrajectoryDataset.from_episodes(
        [numbered_episode(2 + i, i, request=request) for i, request in enumerate(requests)]
    )


def test_requests_come_back(root):
    asked().save("minari:asked-v0")
    read = TrajectoryDataset("minari:asked-v0")
    assert_same(read, asked())
    np.testing.assert_array_equal(read.requests, asked().requests)
    assert read.requests.dtype == np.float64
    storage = minari.load_dataset("asked-v0").storage
    assert storage.metadata["flowshield"]["format_version"] == 2
    told = [facts["request"].tolist() for facts in storage.get_episode_metadata([0, 2])]
    assert told == [[5, -2.5], [3, 1e9]]


def test_without_requests_episodes_are_told_of_as_before(root):
    for some in (asked().subset([1]), TrajectoryDataset.from_episodes([numbered_episode(3)])):
        some.save("minari:unasked-v0")
        storage = minari.load_dataset("unasked-v0").storage
        assert storage.metadata["flowshield"]["format_version"] == 1
        (told,) = storage.get_episode_metadata([0])
        assert told.keys() == {"id", "total_steps", "behaviour", "level", "episode_index"}
        assert TrajectoryDataset("minari:unasked-v0").requests is None


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        (lambda facts: facts.pop("request"), ShapeError, "requests is no rectangular array"),
        (lambda facts: facts.update(request=[1.0, 2.0, 3.0]), ShapeError, "no rectangular array"),
        (lambda facts: facts.update(request=[0.0, 1.0]), DataError, r"requests\[0\] is \[0.0, 1.0"),
        (lambda facts: facts.update(request=["a", "b"]), DataError, "numbers as requests"),
        (lambda facts: facts.update(level=[1.0, 2.0]), ShapeError, "levels is no rectangular"),
        (lambda facts: facts.update(episode_index=[1, 2]), ShapeError, "indices is no rectang"),
    ],
)
def test_what_an_episode_is_told_to_be_and_is_not(root, change, error, said):
    asked().save("minari:asked-v0")
    hdf5_changed(root / "asked-v0" / "data", lambda group: change(group.attrs))
    with pytest.raises(error, match=f"minari:asked-v0.*{said}"):
        TrajectoryDataset("minari:asked-v0")


def test_requests_of_somebody_else_are_not_read_as_ours(root):
    """What Minari kept of an episode is written back; with requests of ours, ours are."""
    folder = write([an_episode()], box(3), box(2))
    hdf5_changed(folder, lambda group: group.attrs.update(request="hello"))
    read = TrajectoryDataset("minari:other-v0")
    read.save("minari:again-v0")
    assert TrajectoryDataset("minari:again-v0").requests is None
    (told,) = minari.load_dataset("again-v0").storage.get_episode_metadata([0])
    assert told["request"] == "hello"


def test_minari_reads_what_flowshield_writes(lander):
    lander.subset([4, 1]).save("minari:lander/mixed-v0")
    dataset = minari.load_dataset("lander/mixed-v0")
    assert set(minari.list_local_datasets()) == {"lander/mixed-v0"}
    env = dataset.recover_environment()
    assert env.spec.kwargs == {"continuous": True, "enable_wind": True}
    assert env.spec.max_episode_steps == 90
    assert env.observation_space == dataset.observation_space
    assert env.action_space == dataset.action_space
    told = list(dataset.storage.get_episode_metadata([0, 1]))
    assert [facts["behaviour"] for facts in told] == lander.behaviours[[4, 1]].tolist()
    for episode, facts in zip(dataset, told, strict=True):
        assert len(episode.observations) == len(episode.rewards) + 1
        first, _ = env.reset(seed=facts["seed"])
        np.testing.assert_array_equal(episode.observations[0], first)


def test_discrete_actions_come_back():
    cartpole = DataCollector(make_env("CartPole-v1")).collect(3, seed=0)
    cartpole.save("minari:cartpole-v0")
    assert_same(TrajectoryDataset("minari:cartpole-v0"), cartpole)
    dataset = minari.load_dataset("cartpole-v0")
    assert dataset.action_space == gym.spaces.Discrete(2)
    assert dataset[0].actions.tolist() == cartpole.actions[: len(dataset[0]), 0].tolist()
    assert dataset.recover_environment().action_space == dataset.action_space


def test_discrete_actions_of_minari_come_back():
    steps = {"actions": np.array([2, 0, 1, 2]), "rewards": np.ones(4)}
    write([an_episode(**steps)], box(3), gym.spaces.Discrete(3))
    read = TrajectoryDataset("minari:other-v0")
    assert read.n_actions == 3 and read.actions.tolist() == [[2], [0], [1], [2]]
    assert read.metadata["minari"]["not_kept"] == []
    read.save("minari:again-v0")
    assert_same_minari(minari.load_dataset("other-v0"), minari.load_dataset("again-v0"))


@BY_MINARI
def test_what_minari_collected_comes_back(root, made):
    made(root)
    read = TrajectoryDataset(PENDULUM)
    env = read.metadata["env"], read.metadata["env_kwargs"]
    assert env == ("Pendulum-v1", {"max_episode_steps": 20})
    assert read.metadata["action_high"] == [2.0]
    assert read.metadata["minari"]["not_kept"] == []
    for path in ("data.npz", "data.parquet", "minari:again-v0"):  # one after the other
        read.save(path)
        again = TrajectoryDataset(path)
        assert again.metadata["minari"] == read.metadata["minari"]
        read = again
    original, copy = minari.load_dataset("pendulum/random-v0"), minari.load_dataset("again-v0")
    assert_same_minari(original, copy)
    assert next(iter(copy.storage.get_episode_metadata([7])))["seed"] == 7
    assert copy.env_spec == original.env_spec


@BY_MINARI
def test_what_minari_collected_trains_with_nothing_else(root, made, capsys):
    made(root)
    assert main(["import-minari", "pendulum/random-v0"]) == 0
    assert "wrote random-v0.npz: 30 episodes, 600 steps" in capsys.readouterr().out
    small = ["n_epochs=1", "shield_epochs=1", "model.hidden_dim=16", "calibration.alpha=0.2"]
    here = ["device=cpu", "ray.num_workers=0", "shield=quantile"]
    assert main(["train", "run_dir=run", "data.path=random-v0.npz", *small, *here]) == 0
    assert {"agent.pt", "quantile.pt"} <= {file.name for file in Path("run", "models").iterdir()}
    assert main(["collect", "run_dir=other", f"data.path={PENDULUM}", "device=cpu"]) == 0
    assert f"found {PENDULUM}: 30 episodes, 600 steps" in capsys.readouterr().out


def write(episodes, observations, actions, name="other-v0", data_format="hdf5", **facts):
    """A dataset of somebody else's, through Minari's own storage."""
    folder = Path("minari", name, "data").absolute()  # of a relative one Minari loses the size
    folder.mkdir(parents=True)
    storage = MinariStorage.new(folder, observations, actions, data_format=data_format)
    storage.update_metadata({"dataset_id": name, "minari_version": minari.__version__, **facts})
    storage.update_episodes(episodes)
    return folder


def box(*shape, dtype=np.float32):
    return gym.spaces.Box(-np.inf, np.inf, shape, dtype)


def an_episode(steps=4, shape=(3,), dtype=np.float32, **changes):
    rng = np.random.default_rng(0)
    ends = np.arange(steps) == steps - 1
    arrays = {
        "observations": rng.normal(size=(steps + 1, *shape)).astype(dtype),
        "actions": rng.normal(size=(steps, 2)).astype(np.float32),
        "rewards": rng.normal(size=steps).astype(np.float32),
        "terminations": ends,
        "truncations": np.zeros(steps, bool),
    }
    return EpisodeBuffer(**{**arrays, **changes})


@pytest.mark.parametrize("data_format", ["hdf5", "parquet", "arrow"])
def test_every_format_of_minari(data_format):
    write([an_episode(), an_episode(2)], box(3), box(2), data_format=data_format)
    read = TrajectoryDataset("minari:other-v0")
    np.testing.assert_array_equal(read.states[:4], an_episode().observations[:4])
    np.testing.assert_array_equal(read.final_states[1], an_episode(2).observations[2])
    assert read.episode_lengths.tolist() == [4, 2]


def test_float32_holds_what_it_can_of_float64_and_says_so(capsys):
    unfinished = {"terminations": np.zeros(4, bool), "infos": {"speed": np.zeros(5)}}
    episodes = [an_episode(shape=(2, 3), dtype=np.float64, seed=2**64 - 1, **unfinished)]
    write(episodes, box(2, 3, dtype=np.float64), box(2))
    assert main(["import-minari", "other-v0", "other.npz"]) == 0
    told = capsys.readouterr().out
    assert "not kept: the infos speed" in told
    assert "not kept: the digits of float64 observations that float32 does not hold" in told
    assert "not kept: that 1 episodes were neither terminated nor truncated" in told
    assert main(["export-minari", "other.npz", "again-v0"]) == 0
    (original,), (copy,) = minari.load_dataset("other-v0"), minari.load_dataset("again-v0")
    assert copy.observations.dtype == np.float64 and copy.rewards.dtype == np.float32
    np.testing.assert_array_equal(copy.observations, original.observations.astype(np.float32))
    np.testing.assert_array_equal(copy.rewards, original.rewards)
    assert copy.truncations.tolist() == [False, False, False, True]
    storage = minari.load_dataset("again-v0").storage
    assert storage.observation_space == box(2, 3, dtype=np.float64)
    assert next(iter(storage.get_episode_metadata([0])))["seed"] == 2**64 - 1


def test_final_states_that_nobody_recorded_stay_unknown():
    flat = TrajectoryDataset.from_arrays(np.ones((3, 2)), np.ones((3, 1)), np.ones(3), [0, 0, 1])
    assert flat.final_states is None
    flat.save("minari:flat-v0")
    (episode,) = minari.load_dataset("flat-v0")
    assert np.isnan(episode.observations[-1]).all() and np.isfinite(episode.observations[:-1]).all()
    read = TrajectoryDataset("minari:flat-v0")
    assert read.final_states is None and read.metadata == flat.metadata
    np.testing.assert_array_equal(read.rewards, flat.rewards)


@pytest.mark.parametrize(
    ("observations", "actions", "said"),
    [
        (gym.spaces.Dict(a=box(2)), box(2), "FlattenObservation"),
        (gym.spaces.Tuple([box(2)]), box(2), r"Tuple\(.*supported are Box observations"),
        (gym.spaces.Discrete(3), box(2), r"Discrete\(3\).*supported are Box observations"),
        (gym.spaces.Box(0, 255, (64, 64, 3), np.uint8), box(2), "images"),
        (box(3), gym.spaces.Discrete(3, start=1), r"Discrete\(3, start=1\)"),
        (box(3), gym.spaces.MultiBinary(2), "supported are one-dimensional Box actions"),
        (box(3), box(2, 2), "supported are one-dimensional Box actions"),
    ],
)
def test_spaces_that_are_not_supported_are_named(observations, actions, said):
    write([], observations, actions)
    with pytest.raises(DataError, match=said):
        TrajectoryDataset("minari:other-v0")


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        (
            {"observations": np.zeros((4, 3))},
            ShapeError,
            r"episode 0: expected observations \[5, 3",
        ),
        ({"actions": np.zeros((4, 1))}, ShapeError, r"expected actions \[4, 2\]"),
        ({"rewards": np.full(4, np.nan)}, DataError, r"rewards\[0\] is nan"),
        ({"rewards": ["a", "b", "c", "d"]}, DataError, "expected numbers as rewards"),
        ({"truncations": np.array([0, 1, 0, 1], bool)}, DataError, "goes on after step 1"),
        ({"terminations": np.array([0, 0, 0, 7])}, DataError, "flags 0 or 1 as terminated"),
    ],
)
def test_episodes_that_do_not_fit(changes, error, said):
    write([an_episode(**changes)], box(3), box(2))
    with pytest.raises(error, match=f"minari:other-v0.*{said}"):
        TrajectoryDataset("minari:other-v0")


def facts_changed(folder, **changes):
    file = folder / "metadata.json"
    facts = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({name: fact for name, fact in facts.items() if fact is not None}))


def hostile_spec(name):
    spec = {"id": name, "entry_point": "os:mkdir", "kwargs": {"path": "exploded"}}
    return json.dumps({**spec, "max_episode_steps": None, "additional_wrappers": []})


def hdf5_changed(folder, change):
    with h5py.File(folder / "main_data.hdf5", "a") as file:
        change(file["episode_0"])


def replaced(group, name, **how):
    del group[name]
    group.create_dataset(name, **how)


def linked(group):
    del group["rewards"]
    group["rewards"] = h5py.ExternalLink("elsewhere.hdf5", "/rewards")


def endless(group):
    group["infos"] = group


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda f: (f / "metadata.json").unlink(), "metadata.json is missing"),
        (lambda f: (f / "metadata.json").write_text("{"), "metadata.json: damaged"),
        (lambda f: (f / "metadata.json").write_text("[" * 100_000), "metadata.json: damaged"),
        (lambda f: (f / "metadata.json").write_text("[]"), "expected dataset_id"),
        (
            lambda f: facts_changed(f, observation_space=None, env_spec=hostile_spec("Bad-v0")),
            r"expected observation_space \(str\)",
        ),
        (lambda f: facts_changed(f, env_spec=hostile_spec("os:Bad-v0")), "names a module"),
        (lambda f: facts_changed(f, env_spec="3"), "env_spec cannot be read"),
        (lambda f: facts_changed(f, observation_space='{"type": "Ball"}'), "is no space"),
        (lambda f: facts_changed(f, minari_version="99.0"), "Minari 99.0"),
        (lambda f: facts_changed(f, flowshield={"format_version": 9}), "format version 9"),
        (lambda f: facts_changed(f, flowshield=[]), "format version None"),
        (lambda f: facts_changed(f, data_format="csv"), "damaged, or foreign"),
        (lambda f: facts_changed(f, total_episodes=10**12), "damaged, or foreign"),
        (lambda f: facts_changed(f, total_steps=5), "speak of 5 steps"),
        (lambda f: facts_changed(f, total_episodes=0), "at least one episode"),
        (lambda f: (f / "main_data.hdf5").unlink(), "main_data.hdf5: missing"),
        (lambda f: (f / "main_data.hdf5").write_bytes(b"\x89HDF"), "main_data.hdf5: missing, dam"),
        (lambda f: hdf5_changed(f, lambda g: g.clear()), "damaged, or foreign"),
        (lambda f: hdf5_changed(f, linked), "rewards is a link"),
        (lambda f: hdf5_changed(f, endless), "recursion"),
        (
            lambda f: hdf5_changed(
                f, lambda g: replaced(g, "rewards", shape=(10**12,), dtype="f8", chunks=True)
            ),
            "rewards claims 8000000000000 bytes and holds 0",
        ),
        (
            lambda f: hdf5_changed(
                f,
                lambda g: replaced(
                    g, "rewards", shape=(4,), dtype="f8", external=[("/etc/passwd", 0, 32)]
                ),
            ),
            "rewards keeps its numbers in another file",
        ),
    ],
)
def test_a_damaged_or_hostile_dataset_is_refused(root, spoil, said):
    folder = write([an_episode()], box(3), box(2))
    spoil(folder)
    with pytest.raises((FileFormatError, DataError), match=said):
        TrajectoryDataset("minari:other-v0")
    assert not Path("exploded").exists()


def test_nothing_is_downloaded(root, capsys):
    assert main(["import-minari", "D4RL/pen/human-v2"]) == 1
    error = capsys.readouterr().err
    assert "`minari download D4RL/pen/human-v2`" in error and str(root) in error
    assert not [path for path in root.rglob("*") if path.is_file()]


@pytest.mark.parametrize("name", ["", "a", "../a-v0", "/tmp/a-v0", "a-v0/..", "a b-v0"])
def test_ids_of_another_form(lander, name):
    for use in (TrajectoryDataset, lander.save):
        with pytest.raises(ConfigError, match="expected the id of a Minari dataset"):
            use(f"minari:{name}")


def test_without_minari_or_h5py_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    with pytest.raises(ConfigError, match=r'pip install "flowshield\[minari\]"'):
        TrajectoryDataset(PENDULUM)


def test_a_dataset_is_replaced_only_by_force_and_only_by_a_whole_one(lander, root, capsys):
    lander.subset([0]).save("one.npz")
    lander.save("all.npz")
    assert main(["export-minari", "one.npz", "x-v0"]) == 0
    assert main(["export-minari", "all.npz", "x-v0"]) == 1
    assert "there already" in capsys.readouterr().err
    assert TrajectoryDataset("minari:x-v0").n_episodes == 1
    spoiled = lander.subset([1])
    spoiled.metadata["env_kwargs"] = {"hook": print}
    with pytest.raises(DataError, match="not fit for JSON"):
        spoiled.save("minari:x-v0")
    assert TrajectoryDataset("minari:x-v0").n_episodes == 1
    assert main(["export-minari", "all.npz", "x-v0", "--force"]) == 0
    assert TrajectoryDataset("minari:x-v0").n_episodes == 6
    assert [path.name for path in root.iterdir()] == ["x-v0"]


def test_a_folder_of_datasets_is_not_replaced_by_one(lander):
    lander.save("minari:x-v0/y-v0")
    with pytest.raises(ConfigError, match="is no dataset"):
        lander.save("minari:x-v0")
    assert TrajectoryDataset("minari:x-v0/y-v0").n_episodes == 6


def test_a_folder_with_anything_else_in_it_is_not_replaced(lander, root):
    lander.save("minari:x-v0")
    (root / "x-v0" / "notes").write_text("mine")
    with pytest.raises(ConfigError, match="is no dataset, and is not replaced"):
        lander.save("minari:x-v0")
    assert (root / "x-v0" / "notes").read_text() == "mine"
    (root / "y-v0" / "data").mkdir(parents=True)
    (root / "y-v0" / "data" / "mine.csv").write_text("mine")
    with pytest.raises(ConfigError, match="is no dataset, and is not replaced"):
        lander.save("minari:y-v0")
    assert (root / "y-v0" / "data" / "mine.csv").read_text() == "mine"

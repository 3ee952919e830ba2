"""Collections: the same bytes however they are made, and refusals before any work is lost."""

import numpy as np
import pytest

from flowshield.data import (
    DataCollector,
    EpisodePolicy,
    TrajectoryDataset,
    as_behaviour,
    collect_episodes,
)
from flowshield.data.seeding import draw_env_seed, episode_generator
from flowshield.envs import make_env
from flowshield.errors import ConfigError, DataError, FileFormatError, ShapeError

MIXED = {
    "components": [
        {"kind": "noisy_controller", "weight": 1, "levels": [0.1, 0.3]},
        {"kind": "epsilon_random", "weight": 1, "levels": [0.5]},
        {"kind": "takeover", "weight": 1, "levels": [20]},
        {"kind": "random", "weight": 1},
    ]
}


def lander():
    return make_env("lunarlander", max_episode_steps=150)


def same_episode(one, other):
    return all(
        np.asarray(getattr(one, name)).tobytes() == np.asarray(getattr(other, name)).tobytes()
        for name in one.__slots__
    )


def collect(indices, n_envs=1, seed=5):
    envs = [lander() for _ in range(n_envs)]
    return collect_episodes(envs, as_behaviour(MIXED), indices, seed)


@pytest.fixture(scope="module")
def ten():
    return collect(range(10))


def test_two_collections_with_one_seed_are_equal_to_the_byte(tmp_path):
    for suffix in ("npz", "pkl"):
        contents = []
        for name in "ab":
            collector = DataCollector(lander(), behaviour=MIXED)
            collector.collect(6, seed=11)
            collector.save(tmp_path / f"{name}.{suffix}")
            contents.append((tmp_path / f"{name}.{suffix}").read_bytes())
        assert contents[0] == contents[1]


def test_four_and_six_episodes_are_ten(ten):
    pieces = collect(range(4)) + collect(range(4, 10))
    assert all(map(same_episode, ten, pieces))


@pytest.mark.parametrize("n_envs", [2, 3, 10])
def test_lockstep_changes_nothing(ten, n_envs):
    assert all(map(same_episode, ten, collect(range(10), n_envs)))


def test_order_of_collection_changes_nothing(ten):
    assert all(map(same_episode, ten[::-1], collect(range(9, -1, -1))))


def test_another_seed_is_another_collection(ten):
    assert not any(map(same_episode, ten, collect(range(10), seed=6)))


def test_episodes_of_one_collection_differ(ten):
    assert len({episode.states.tobytes() for episode in ten}) == 10


def test_an_episode_draws_from_its_spawned_child():
    (child,) = np.random.SeedSequence(5).spawn(4)[3:]
    rng = np.random.default_rng(child)
    state, _ = lander().reset(seed=int(rng.integers(2**31)))
    (episode,) = collect([3])
    np.testing.assert_array_equal(episode.states[0], state)


def test_labels_and_metadata(ten):
    dataset = DataCollector(lander(), behaviour=MIXED).collect(10, seed=5)
    assert dataset.behaviours.tolist() == [episode.behaviour for episode in ten]
    assert len(set(dataset.behaviours.tolist())) > 1
    np.testing.assert_array_equal(dataset.levels, [episode.level for episode in ten])
    assert dataset.episode_indices.tolist() == list(range(10))
    metadata = dataset.metadata
    assert (metadata["env"], metadata["env_id"]) == ("lunarlander", "LunarLander-v3")
    assert metadata["env_kwargs"] == {"max_episode_steps": 150}
    assert (metadata["seed"], metadata["n_episodes"]) == (5, 10)
    assert metadata["n_truncated"] == sum(episode.truncated for episode in ten) > 0
    assert metadata["behaviour"]["components"][3] == {"kind": "random", "weight": 1.0}


class Asking:
    """A behaviour that gives every other episode a command, drawn from its own generator."""

    def draw(self, env, rng):
        wish = float(rng.integers(1, 100))
        request = (wish, -wish) if wish % 2 else None
        return EpisodePolicy("asking", np.nan, lambda state: np.zeros(2, np.float32), request)

    def describe(self):
        return {"kind": "asking"}


@pytest.mark.parametrize("n_envs", [1, 4])
def test_requests_of_a_behaviour_of_ones_own_are_recorded(n_envs):
    envs = [lander() for _ in range(n_envs)]
    episodes = collect_episodes(envs, Asking(), range(8), 5)
    drawn = []
    for index in range(8):
        rng = episode_generator(5, index)
        draw_env_seed(rng)
        drawn.append(Asking().draw(None, rng).request)
    assert [episode.request for episode in episodes] == drawn
    assert None in drawn and len(set(drawn)) > 3


def test_nobody_was_asked_for_anything(ten):
    assert {episode.request for episode in ten} == {None}


def test_none_is_a_random_policy():
    dataset = DataCollector(make_env("Pendulum-v1", max_episode_steps=50)).collect(4)
    assert set(dataset.behaviours.tolist()) == {"random"}
    assert dataset.actions.min() < -1.5
    assert dataset.actions.max() > 1.5


def test_a_callable_policy_acts_on_a_plain_environment():
    import gymnasium as gym

    env = gym.make("Pendulum-v1", max_episode_steps=20)
    dataset = DataCollector(env, lambda state: state[2:] / 8).collect(2)
    np.testing.assert_array_equal(dataset.actions, dataset.states[:, 2:] / 8)


def test_progress_hears_every_episode_in_order():
    heard = []
    DataCollector(lander()).collect(5, progress=lambda episode: heard.append(episode.index))
    assert heard == [0, 1, 2, 3, 4]


def test_progress_with_actors_is_refused_and_not_forgotten():
    with pytest.raises(ConfigError, match="use collect_shared"):
        DataCollector(lander()).collect(1, num_workers=1, progress=print)


def test_collected_data_can_be_saved_and_read(tmp_path):
    collector = DataCollector(lander())
    dataset = collector.collect(n_episodes=3)
    collector.save(tmp_path / "new" / "data.npz")
    read = TrajectoryDataset(tmp_path / "new" / "data.npz")
    np.testing.assert_array_equal(read.states, dataset.states)


def test_saving_nothing():
    with pytest.raises(DataError, match="call collect first"):
        DataCollector(lander()).save("x.npz")


def test_a_wrong_suffix_loses_nothing(tmp_path):
    collector = DataCollector(lander())
    collector.collect(1)
    with pytest.raises(FileFormatError, match=r"\.npz or \.pkl or \.parquet, got '\.csv'"):
        collector.save(tmp_path / "data.csv")
    collector.save(tmp_path / "data.npz")


@pytest.mark.parametrize("n_episodes", [0, -3, 2.5, True, "ten"])
def test_number_of_episodes(n_episodes):
    with pytest.raises(ConfigError, match="episodes"):
        DataCollector(lander()).collect(n_episodes)


@pytest.mark.parametrize("seed", [-1, 0.5, None])
def test_seed(seed):
    with pytest.raises(ConfigError, match="seed"):
        DataCollector(lander()).collect(1, seed=seed)


def test_the_number_of_workers_is_checked():
    with pytest.raises(ConfigError, match="num_workers >= 0, got -1"):
        DataCollector(lander()).collect(1, num_workers=-1)
    with pytest.raises(ConfigError, match="num_workers >= 1, got 0: use collect"):
        DataCollector(lander()).collect_shared(1, num_workers=0)


def test_rendering_needs_a_render_mode():
    with pytest.raises(ConfigError, match='render_mode="human"'):
        DataCollector(lander()).collect(1, render=True)


def test_policy_and_behaviour_exclude_each_other():
    with pytest.raises(ConfigError, match="got both"):
        DataCollector(lander(), lambda state: state[:2], behaviour=MIXED)


@pytest.mark.parametrize("action", [0.0, [0.0], [[0.0, 0.0]], [0.0, 0.0, 0.0]])
def test_wrong_action_shape_of_a_policy(action):
    def clumsy(state):
        return action

    with pytest.raises(ShapeError, match=r"'clumsy' returned.*'lunarlander' expects \[2\]"):
        DataCollector(lander(), clumsy).collect(1)


def test_metadata_are_fit_for_json_whatever_the_environment_was_made_with(tmp_path):
    env = lander()
    env.make_kwargs = {"gravity": np.float32(-5), "hook": print}
    collector = DataCollector(env)
    assert collector.collect(1).metadata["env_kwargs"]["gravity"] == -5
    collector.save(tmp_path / "data.npz")

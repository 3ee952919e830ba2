import os
import signal
import sys
from contextlib import suppress

import gymnasium as gym
import numpy as np
import pytest
import ray
import torch
from actors import alive_pids

from flowshield.data import DataCollector, EpisodePolicy, TrajectoryDataset
from flowshield.distributed.collect import _chunk_size, collect_shared
from flowshield.envs import ContinuousEnvWrapper, make_env, register_env, registry
from flowshield.errors import ConfigError, DataError
from flowshield.evaluation import AgentBehaviour
from flowshield.models import UDRLAgent

pytestmark = pytest.mark.ray
# pytest imports this file by a name that other processes do not know
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])

MIXED = {
    "components": [
        {"kind": "controller", "weight": 0.5},
        {"kind": "noisy_controller", "weight": 0.3, "levels": [0.1, 0.3]},
        {"kind": "random", "weight": 0.2},
    ]
}
N = 48


def collector():
    return DataCollector(make_env("lunarlander"), behaviour=MIXED)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The bytes of the dataset that this process collects by itself."""
    path = tmp_path_factory.mktemp("alone") / "data.npz"
    collector().collect(N, seed=3).save(path)
    return path.read_bytes()


@pytest.mark.parametrize(
    ("n_episodes", "expected"), [(1, 1), (300, 37), (1000, 64), (100_000, 512)]
)
def test_a_task_is_sized_to_the_collection(n_episodes, expected):
    """Four tasks an actor, then as many episodes for each of 64 environments, at most eight."""
    assert _chunk_size(n_episodes, num_workers=2, n_envs=64) == expected


@pytest.mark.parametrize("num_workers", [1, 2, 4, 6])  # for the last two there are no CPUs
def test_any_number_of_workers_gives_the_same_bytes(cluster, alone, num_workers, tmp_path, capfd):
    collector().collect(N, seed=3, num_workers=num_workers).save(tmp_path / "data.npz")
    assert (tmp_path / "data.npz").read_bytes() == alone
    assert "core_worker" not in capfd.readouterr().err  # Ray has nothing to warn of


def test_discrete_actions_come_through_the_object_store(cluster):
    pushing = DataCollector(make_env("cartpole"))
    came, alone = pushing.collect(6, seed=2, num_workers=1), pushing.collect(6, seed=2)
    assert came.n_actions == 2 and came.actions.dtype == np.int64
    np.testing.assert_array_equal(came.actions, alone.actions)


@pytest.mark.parametrize("num_workers", [1, 2])
def test_an_agent_too_gives_the_same_bytes_with_its_weights_sent_once(
    cluster, num_workers, tmp_path, monkeypatch
):
    torch.manual_seed(0)
    agent = UDRLAgent(8, 2, hidden_dim=64, n_layers=2)
    behaviour = AgentBehaviour(agent, [(200, 250), (80, -100)], noise=0.2)
    flying = DataCollector(make_env("lunarlander"), behaviour=behaviour)
    flying.collect(20, seed=3).save(tmp_path / "alone.npz")
    # whoever pickles the agent a second time sends its weights a second time
    pickled = []
    monkeypatch.setattr(
        AgentBehaviour, "__getstate__", lambda self: pickled.append(1) or vars(self), raising=False
    )
    # groups of 5, 5 and 3, and of 5 and 2: other batches than one episode at a time above
    shared = flying.collect_shared(
        20, seed=3, num_workers=num_workers, envs_per_worker=5, chunk_episodes=13
    )
    assert pickled == [1]
    shared.to_local().save(tmp_path / "shared.npz")
    assert (tmp_path / "shared.npz").read_bytes() == (tmp_path / "alone.npz").read_bytes()


def test_requests_of_an_agent_are_the_same_with_any_number_of_workers(cluster, tmp_path):
    torch.manual_seed(0)
    commands = [(20, 250), (30, -100), (15, 0)]
    behaviour = AgentBehaviour(UDRLAgent(8, 2, hidden_dim=16, n_layers=1), commands)
    flying = DataCollector(make_env("lunarlander", max_episode_steps=40), behaviour=behaviour)
    for num_workers in (0, 2):
        dataset = flying.collect(24, seed=3, num_workers=num_workers)
        assert set(map(tuple, dataset.requests.tolist())) == set(commands)
        dataset.save(tmp_path / f"{num_workers}.npz")
    assert (tmp_path / "0.npz").read_bytes() == (tmp_path / "2.npz").read_bytes()


class Asking:
    """A behaviour that gives about every other episode a command."""

    def draw(self, env, rng):
        wish = float(rng.integers(1, 100))
        request = (wish, -wish) if wish % 2 else None
        return EpisodePolicy("asking", np.nan, lambda state: np.zeros(2, np.float32), request)

    def describe(self):
        return {"kind": "asking"}


def test_blocks_with_and_without_requests_are_one_dataset(cluster, tmp_path):
    asking = DataCollector(make_env("lunarlander", max_episode_steps=40), behaviour=Asking())
    alone = asking.collect(8, seed=3)
    assert 0 < np.isnan(alone.requests[:, 0]).sum() < 8
    shared = asking.collect_shared(8, seed=3, num_workers=2, chunk_episodes=1)
    names = [ray.get(block).column_names for block in shared.blocks]
    assert len({"request_return" in columns for columns in names}) == 2
    for dataset, name in ((alone, "alone.npz"), (shared.to_local(), "shared.npz")):
        dataset.save(tmp_path / name)
    assert (tmp_path / "alone.npz").read_bytes() == (tmp_path / "shared.npz").read_bytes()
    shared.write_parquet(tmp_path / "data.parquet")
    read = TrajectoryDataset(tmp_path / "data.parquet")
    np.testing.assert_array_equal(read.requests, alone.requests)
    assert read.metadata["format_version"] == 2
    rows = shared.to_ray()
    assert rows.count() == len(alone)
    whole = next(iter(rows.iter_batches(batch_size=len(alone))))
    in_every_row = np.repeat(alone.requests, alone.episode_lengths, axis=0)
    np.testing.assert_array_equal(whole["request_horizon"], in_every_row[:, 0])
    np.testing.assert_array_equal(whole["request_return"], in_every_row[:, 1])


def test_killed_workers_lose_nothing(cluster, alone, tmp_path):
    killed = []

    def kill(_):
        if len(killed) < 20:
            for pid in alive_pids("RolloutWorker"):
                with suppress(ProcessLookupError):  # Ray's list may name one killed before
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)

    shared = collector().collect_shared(
        N, seed=3, num_workers=2, envs_per_worker=2, chunk_episodes=2, on_chunk=kill
    )
    shared.to_local().save(tmp_path / "data.npz")
    assert len(killed) >= 20
    assert (tmp_path / "data.npz").read_bytes() == alone


def test_the_blocks_are_a_ray_dataset_and_parquet(cluster, tmp_path):
    shared = collector().collect_shared(12, seed=3, num_workers=2, chunk_episodes=4)
    local = shared.to_local()
    assert len(shared.blocks) == 3 and len(shared) == len(local) and shared.n_episodes == 12
    # summed in another order
    np.testing.assert_allclose(shared.episode_returns, local.episode_returns, rtol=1e-12)
    rows = shared.to_ray()
    assert rows.count() == len(local)
    batch = next(iter(rows.iter_batches(batch_size=None)))
    np.testing.assert_array_equal(batch["states"], local.states[: len(batch["states"])])
    shared.write_parquet(tmp_path / "data.parquet")
    read = TrajectoryDataset(tmp_path / "data.parquet")
    for name in ("states", "actions", "rewards", "terminated", "truncated", "final_states"):
        np.testing.assert_array_equal(getattr(read, name), getattr(local, name))
    assert read.metadata["seed"] == 3 and read.behaviours.tolist() == local.behaviours.tolist()
    read.save(tmp_path / "read.npz")
    assert TrajectoryDataset(tmp_path / "read.npz").n_episodes == 12


class Sulking(ContinuousEnvWrapper):
    """An environment that only this process has registered, and that fails in its third episode."""

    def __init__(self):
        import gymnasium as gym

        super().__init__(gym.make("Pendulum-v1"), name="sulking")
        self.resets = 0

    def reset(self, **options):
        self.resets += 1
        state, info = super().reset(**options)
        return (state * np.nan if self.resets > 2 else state), info


def test_an_environment_of_ones_own_and_its_error(cluster, monkeypatch):
    monkeypatch.setattr(registry, "_WRAPPERS", dict(registry._WRAPPERS))
    register_env("sulking", Sulking)
    env = make_env("sulking")
    behaviour = DataCollector(env).behaviour
    fine = collect_shared(env, behaviour, 2, 0, num_workers=1, envs_per_worker=2)
    assert fine.n_episodes == 2
    with pytest.raises(DataError, match="expected finite numbers"):
        collect_shared(env, behaviour, 6, 0, num_workers=1, envs_per_worker=1)


class OldStep(Sulking):
    """An environment whose step is of the old API, whatever its reset is."""

    def step(self, action):
        state, reward, *_ = self.env.step(action)
        return state, reward, False, {}


def test_an_environment_of_another_api_is_told_as_without_ray(cluster, monkeypatch):
    monkeypatch.setattr(registry, "_WRAPPERS", dict(registry._WRAPPERS))
    register_env("old", OldStep)
    said = []
    for num_workers in (0, 1):
        with pytest.raises(DataError, match="API: its step returned 4 values") as found:
            DataCollector(make_env("old")).collect(2, num_workers=num_workers)
        said.append(str(found.value))
    assert said[0] == said[1]


class Mapped(ContinuousEnvWrapper):
    """A Pendulum with a map that is large enough for Ray to put it into the object store."""

    def __init__(self, heights=()):
        assert len(heights) == 0 or len(heights) == 100_000
        super().__init__(gym.make("Pendulum-v1", max_episode_steps=5))


def test_large_arguments_of_an_environment_give_ray_nothing_to_warn_of(cluster, monkeypatch, capfd):
    monkeypatch.setattr(registry, "_WRAPPERS", dict(registry._WRAPPERS))
    register_env("mapped", Mapped)
    env = make_env("mapped", heights=np.zeros(100_000).tolist())
    assert DataCollector(env).collect(2, seed=1, num_workers=1).n_episodes == 2
    assert capfd.readouterr().err == ""


def test_what_cannot_be_made_again_is_refused(cluster):
    import gymnasium as gym

    class Nameless(gym.Wrapper):
        pass

    env = ContinuousEnvWrapper(Nameless(gym.make("Pendulum-v1").unwrapped), name="nameless")
    env.max_episode_steps = 5
    with pytest.raises(ConfigError, match="cannot be made again.*register_env"):
        DataCollector(env).collect(2, num_workers=1)

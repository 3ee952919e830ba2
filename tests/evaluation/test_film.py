"""Films: the evaluator's own episodes, and pictures that can be read."""

import sys

import gymnasium as gym
import numpy as np
import pytest
import torch
from PIL import Image

from flowshield.data import Episode
from flowshield.envs import ContinuousEnvWrapper, make_env
from flowshield.errors import UsageError
from flowshield.evaluation import EvaluatedEpisode, run_episode
from flowshield.evaluation.film_file import write_film
from flowshield.evaluation.film_picture import film_picture
from flowshield.evaluation.filmed import LARGEST_SIDE, MOST_PICTURES, FilmedEpisode, film_episode
from flowshield.models import MixtureShield, UDRLAgent
from flowshield.models.shields import ExchangeablePairs

COMMAND = (90.0, 80.0)


def agent_and_shield(state_dim, action_dim):
    """Untrained, but calibrated so that the shield flags some commands of an episode, not all."""
    torch.manual_seed(0)
    agent = UDRLAgent(state_dim, action_dim, hidden_dim=16, n_layers=1).eval()
    shield = MixtureShield(state_dim, hidden_dim=16, n_layers=1, n_components=2).eval()
    states, commands = torch.randn(200, state_dim), torch.randn(200, 2)
    commands = commands * torch.tensor([30.0, 60.0]) + torch.tensor([60.0, -50.0])
    agent.fit_standardizers(states, commands)
    shield.fit_standardizers(states, commands)
    shield.calibrate(ExchangeablePairs(states.numpy(), commands.numpy()), 0.2)
    return agent, shield


@pytest.fixture(scope="module")
def lander():
    """(agent, shield, the episode filmed without it, with it)."""
    agent, shield = agent_and_shield(8, 2)
    env = make_env("lunarlander", render_mode="rgb_array")
    sides = [
        film_episode(env, agent, COMMAND, shield, shielded=shielded, seed=5)
        for shielded in (False, True)
    ]
    env.close()
    return agent, shield, *sides


@pytest.mark.parametrize("shielded", [False, True])
def test_the_filmed_episode_is_the_evaluators(lander, shielded):
    agent, shield, *sides = lander
    filmed = sides[shielded]
    env = make_env("lunarlander")  # which draws nothing
    expected = run_episode(env, agent, COMMAND, shield if shielded else None, seed=5)
    for name in ("states", "final_state", "actions", "rewards"):
        ours = getattr(filmed.evaluated.episode, name)
        np.testing.assert_array_equal(ours, getattr(expected.episode, name))
    for name in ("command", "first_command", "crashed", "flagged_steps", "flagged_at_start"):
        assert getattr(filmed.evaluated, name) == getattr(expected, name), name
    assert filmed.outcome == {True: "crashed", False: "landed"}[expected.crashed]


def test_drawn_actions_are_the_evaluators_too():
    agent, shield = agent_and_shield(1, 1)
    filmed = film_episode(
        counted(steps=50), agent, COMMAND, shield, shielded=True, seed=2, deterministic=False
    )
    expected = run_episode(
        counted(steps=50), agent, COMMAND, shield, seed=2, deterministic=False
    ).episode
    np.testing.assert_array_equal(filmed.evaluated.episode.actions, expected.actions)
    assert len(np.unique(expected.actions)) > 10  # in a state that does not change


def test_what_is_written_is_what_the_policy_did(lander):
    agent, shield, alone, guarded = lander
    assert not (alone.asked != alone.followed).any()
    replaced = (guarded.asked != guarded.followed).any(axis=1)
    assert 0 < replaced.sum() == guarded.evaluated.flagged_steps
    np.testing.assert_array_equal(replaced, guarded.scores < guarded.limits)
    for side in (alone, guarded):
        rewards = side.evaluated.episode.rewards
        np.testing.assert_array_equal(side.asked[0], COMMAND)
        horizons, returns = (side.asked[1:] - side.followed[:-1]).T
        assert ((horizons == -1) | (side.asked[1:, 0] == 1)).all()
        np.testing.assert_allclose(returns, -rewards[:-1], atol=1e-3)
        assert side.return_after(3) == pytest.approx(rewards[:3].sum())
        states = torch.as_tensor(side.evaluated.episode.states)
        scores = shield.score(states, torch.as_tensor(side.asked, dtype=torch.float32))
        np.testing.assert_allclose(side.scores, scores.numpy(), atol=1e-4)


def test_every_picture_is_of_the_state_that_it_is_said_to_be_of(lander):
    *_, filmed = lander
    env = make_env("lunarlander", render_mode="rgb_array")
    env.reset(seed=5)
    assert filmed.stride == 2  # 50 steps a second
    assert len(filmed.pictures) == -(-filmed.length // 2) + 1
    for step in range(filmed.length + 1):
        if step % 2 == 0 or step == filmed.length:
            picture = Image.fromarray(env.render())
            picture.thumbnail((LARGEST_SIDE, LARGEST_SIDE), Image.Resampling.LANCZOS)
            assert picture.tobytes() == filmed.picture_after(step).tobytes(), step
        if step < filmed.length:
            env.step(filmed.evaluated.episode.actions[step])
    env.close()


class Counter(gym.Env):
    """Shows its step count as a grey tone, at 5 steps a second, for 1,000 steps."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 5}
    observation_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)
    render_mode = "rgb_array"

    def reset(self, *, seed=None, options=None):
        self.count = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.count += 1
        return np.zeros(1, np.float32), 0.5, False, False, {}

    def render(self):
        return np.full((20, 30, 3), self.count % 256, np.uint8)


def counted(env=None, steps=1000):
    return ContinuousEnvWrapper(gym.wrappers.TimeLimit(env or Counter(), steps), name="counter")


def test_a_long_episode_is_thinned_evenly_and_keeps_its_end():
    agent, shield = agent_and_shield(1, 1)
    filmed = film_episode(counted(), agent, COMMAND, shield, shielded=False)
    assert filmed.outcome == "time out" and filmed.length == 1000
    assert filmed.stride == 4 and len(filmed.pictures) == 251 <= MOST_PICTURES
    for step in (0, 4, 400, 996, 1000):
        assert filmed.picture_after(step).getpixel((0, 0)) == (step % 256,) * 3
    assert film_episode(counted(steps=90), agent, COMMAND, shield, shielded=False).stride == 1


def test_an_environment_without_pictures_is_refused():
    class Blind(Counter):
        def render(self):
            return None

    class Broken(Counter):
        def render(self):
            raise RuntimeError("no screen")

    agent, shield = agent_and_shield(1, 1)
    for env, said in ((Blind, "uint8 from its render.* got NoneType"), (Broken, "no screen")):
        with pytest.raises(UsageError, match=f"environment 'counter' cannot be filmed.*{said}"):
            film_episode(counted(env()), agent, COMMAND, shield, shielded=False)


def synthetic(size, outcome, length=40, scale=1.0, score_type="density", shielded=False):
    """A filmed episode with pictures of one colour and with figures of some size."""
    zeros = np.zeros(length)
    episode = Episode(
        np.zeros((length, 1), np.float32), np.zeros(1, np.float32),
        np.zeros((length, 1), np.float32), zeros - scale, True, False,
    )  # fmt: skip
    asked = np.full((length, 2), [scale + 0.5, -scale])
    evaluated = EvaluatedEpisode(episode, (scale, scale), (scale, scale), None, 0, False)
    return FilmedEpisode(
        evaluated, shielded, asked, asked + shielded * 0.1, zeros - scale, zeros, score_type,
        [Image.new("RGB", size, (0, 0, 255))] * (length + 1), 1, 0.04, outcome,
    )  # fmt: skip


def test_the_side_that_ends_first_stays_as_it_ended():
    short = synthetic((440, 293), "crashed", length=10)
    long = synthetic((440, 293), "landed", length=30, shielded=True)

    def halves(step):
        picture = np.asarray(film_picture((short, long), step, "with it"))
        return np.split(picture, 2, axis=1)

    ended, running = halves(10)
    for step in (11, 29, 30):
        left, right = halves(step)
        np.testing.assert_array_equal(left, ended)
        assert (right != running).any()
    assert (halves(9)[0] != ended).any()


@pytest.mark.parametrize("size", [(440, 293), (64, 48), (440, 110), (100, 440)])
@pytest.mark.parametrize("scale", [1.0, 12345.6, 1e12])
def test_no_text_leaves_its_place(size, scale):
    sides = tuple(
        synthetic(size, "time out", scale=scale, score_type="achievability", shielded=shielded)
        for shielded in (False, True)
    )
    for step in (0, 40):
        picture = np.asarray(film_picture(sides, step, "with the flow_matching shield"))
        height, width, _ = picture.shape
        assert height % 2 == width % 2 == 0 and width >= 2 * 360
        background = picture[0, 0]
        for half in np.split(picture, 2, axis=1):  # an empty margin about each side
            edges = (half[:, :12], half[:, -12:], half[:6], half[-6:])
            assert all((edge == background).all() for edge in edges)
        if step == 0:  # the environment's picture is whole: nothing is written on it
            assert (picture == [0, 0, 255]).all(axis=2).sum() == 2 * size[0] * size[1]


def noise(n, size=(64, 48)):
    rng = np.random.default_rng(0)
    return [
        Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), np.uint8)) for _ in range(n)
    ]


def test_a_gif_lasts_as_long_as_what_it_shows(tmp_path):
    assert write_film(tmp_path / "film.gif", noise(25), 0.08, 1e9) == 25
    with Image.open(tmp_path / "film.gif") as gif:
        durations = []
        for frame in range(gif.n_frames):
            gif.seek(frame)
            durations.append(gif.info["duration"])
    assert durations == [1500, *[80] * 23, 2500]


def test_a_film_is_no_larger_than_it_may_be_and_keeps_its_pace_and_its_end(tmp_path):
    pictures, path = noise(60), tmp_path / "new" / "film.gif"
    whole = write_film(path, pictures, 0.1, 1e9) and path.stat().st_size
    n = write_film(path, pictures, 0.1, whole / 3)
    assert 0 < path.stat().st_size <= whole / 3 and n == 16
    with Image.open(path) as gif:
        gif.seek(1)
        assert gif.info["duration"] == 400  # every fourth picture
        gif.seek(gif.n_frames - 1)
        last = np.asarray(gif.convert("RGB"), float)
    alike = [np.abs(last - np.asarray(picture)).mean() for picture in pictures]
    assert np.argmin(alike) == len(pictures) - 1
    with pytest.raises(UsageError, match="more than the 0.001 MB allowed"):
        write_film(path, pictures, 0.1, 1e3)
    assert [file.name for file in path.parent.iterdir()] == ["film.gif"]


def test_other_formats_are_refused_and_mp4_names_its_extra(tmp_path, monkeypatch):
    with pytest.raises(UsageError, match=r"\*.gif or \*.mp4, got 'film.avi'"):
        write_film(tmp_path / "film.avi", noise(2), 0.1, 1e9)
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)  # as if it were not installed
    with pytest.raises(UsageError, match=r"pip install 'flowshield\[film\]'"):
        write_film(tmp_path / "film.mp4", noise(2), 0.1, 1e9)


def test_an_mp4_shows_the_pictures_at_their_pace(tmp_path):
    ffmpeg = pytest.importorskip("imageio_ffmpeg")
    tones = [Image.new("RGB", (64, 48), (tone,) * 3) for tone in range(0, 250, 10)]
    write_film(tmp_path / "film.mp4", tones, 0.1, 1e9)
    reader = ffmpeg.read_frames(str(tmp_path / "film.mp4"))
    about = next(reader)
    assert about["size"] == (64, 48) and about["fps"] == pytest.approx(10)
    shown = [np.frombuffer(frame, np.uint8).mean() for frame in reader]
    expected = [0] * 15 + list(range(0, 250, 10)) + [240] * 25
    assert len(shown) == len(expected)
    np.testing.assert_allclose(shown, expected, atol=6)

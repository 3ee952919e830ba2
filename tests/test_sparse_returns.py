"""An environment of one's own whose return is 0 or 1, from the command line to every page."""

import html
import json
import shutil

import gymnasium as gym
import numpy as np
import pytest
from omegaconf import OmegaConf
from tiny import TINY

from flowshield.cli import main
from flowshield.data import TrajectoryDataset
from flowshield.envs import ContinuousEnvWrapper, register_env


class Thrown(gym.Env):
    """Five steps; the return is 1 where the mean action is above the state, else 0."""

    observation_space = gym.spaces.Box(-2, 2, (1,), np.float32)
    action_space = gym.spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.aim, self.actions = self.np_random.uniform(-0.3, 0.3), []
        return self._state(), {}

    def step(self, action):
        self.actions.append(float(action[0]))
        over = len(self.actions) == 5
        hit = over and np.mean(self.actions) > self.aim
        return self._state(), float(hit), over, False, {}

    def _state(self):
        return np.array([self.aim - sum(self.actions) / 5], np.float32)


register_env("thrown", lambda: ContinuousEnvWrapper(gym.wrappers.TimeLimit(Thrown(), 9)))

HERE = [
    *[given for given in TINY if not given.startswith("env.commands")],
    "profile=quick",
    "ray.num_workers=0",
    "shield=quantile",
    "evaluation.n_episodes=20",
    "evaluation.explorer.n_episodes=1",
    "evaluation.explorer.n_moments=1",
    "evaluation.explorer.n_requests=2",
    "data.n_episodes=120",
    "behaviour=random",
    "env.name=thrown",
    "env.commands=[[5,1],[5,0]]",
]
MET = "a return counts as met within 0.2 (derived: a fifth of the returns' spread of 1.05)"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("thrown") / "run"
    assert main(["run", f"run_dir={folder}", *HERE]) == 0
    return folder


def results(folder):
    return json.loads((folder / "results.json").read_text())


def test_the_terminal_says_what_was_derived_and_writes_means_with_two_decimals(finished, capsys):
    assert main(["run", f"run_dir={finished}"]) == 0  # all is there: it is told again
    told = capsys.readouterr().out
    assert MET in " ".join(told.split())
    for cell in results(finished)["cells"]:
        assert f"{cell['return_mean']:.2f} ±0." in told
    mean = TrajectoryDataset(finished / "dataset.npz").episode_returns.mean()
    assert f"return {mean:.2f} ± " in told and "(highest 1.00)" in told


def test_no_step_of_another_environment_is_in_its_config_or_results(finished):
    config = OmegaConf.load(finished / "config.yaml")
    assert config.env.return_step is config.evaluation.bound_margin is None
    content = results(finished)
    assert content["yardstick"]["return_tolerance"] == 0.2
    assert content["yardstick"]["bound_margin"] == 0.2
    record = content["followed"]["quantile"]
    assert record["return_tolerance"] == 0.2
    asked = np.array(record["commanded"])[:, 1]
    assert (asked == np.rint(asked)).all()  # half a success is nothing to ask for
    achieved = np.array(record["achieved"])[:, 1]
    assert record["coverage"]["mean"] == pytest.approx(np.mean(asked == achieved))
    assert {content["dataset"][f"return_{name}"] for name in ("grid", "decimals")} == {1.0, 2}


def test_the_report_and_the_explorer_say_it_too(finished):
    report = html.unescape((finished / "report.html").read_text())
    assert MET in report and "Impossible commands ask for 0.2 more than" in report
    assert "spread 1.05, multiples of 1" in report
    assert '"decimals": 3' in (finished / "explorer.html").read_text()


def test_the_same_run_may_be_measured_by_a_number_of_ones_own(finished, tmp_path, capsys):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    given = "evaluation.followed.return_tolerance=1"
    assert main(["evaluate", f"run_dir={folder}", given]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "a return counts as met within 1 (set by the config)" in told
    record = results(folder)["followed"]["quantile"]
    assert record["coverage"]["mean"] == 1.0 and "100% within ±1 of" in told


def test_the_shield_is_asked_about_parts_of_a_success(finished, capsys):
    asked = ["ask", str(finished), "--state", "0.1", "--command", "5", "0.5"]
    assert main(asked) == 0
    told = capsys.readouterr().out
    assert "return 0.500 in 5 steps" in told

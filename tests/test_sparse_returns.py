"""An environment of one's own whose return is 0 or 1, from the command line to every page."""

import html
import json
import shutil
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
from omegaconf import OmegaConf
from tiny import TINY

from flowshield.cli import ask, main
from flowshield.data import TrajectoryDataset
from flowshield.envs import ContinuousEnvWrapper, register_env
from flowshield.evaluation.answer import told_decimals
from flowshield.evaluation.wording import short_number
from flowshield.models.shields import MixtureShield
from flowshield.pipeline.collecting import _Teller


class Thrown(gym.Env):
    """Five steps; the return is 1 unit where the mean action is above the state, else 0."""

    observation_space = gym.spaces.Box(-2, 2, (1,), np.float32)
    action_space = gym.spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, unit):
        self.unit = unit

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.aim, self.actions = self.np_random.uniform(-0.3, 0.3), []
        return self._state(), {}

    def step(self, action):
        self.actions.append(float(action[0]))
        over = len(self.actions) == 5
        hit = over and np.mean(self.actions) > self.aim
        return self._state(), self.unit * float(hit), over, False, {}

    def _state(self):
        return np.array([self.aim - sum(self.actions) / 5], np.float32)


class ThrownWrapper(ContinuousEnvWrapper):
    def __init__(self, unit=1.0):
        super().__init__(gym.wrappers.TimeLimit(Thrown(unit), 9))
        self.make_kwargs = {"unit": unit}


register_env("thrown", ThrownWrapper)

HERE = [
    *[given for given in TINY if not given.startswith("env.commands")],
    "profile=quick",
    "ray.num_workers=0",
    "shield=quantile",
    "evaluation.n_episodes=20",
    "evaluation.followed.n_starts=10",
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


@pytest.mark.parametrize("unit", [1e-6, 1e6])
def test_a_run_in_another_unit_says_the_same(finished, tmp_path, capsys, unit):
    there = [f"env.kwargs.unit={unit}", f"env.commands=[[5,{unit}],[5,0]]"]
    assert main(["run", f"run_dir={tmp_path / 'run'}", *HERE, *there]) == 0
    met = f"a return counts as met within {short_number(0.2 * unit)} (derived:"
    told = " ".join(capsys.readouterr().out.split())
    assert met in told and f"noise on returns {0.01 * unit:g} (from the data)" in told
    one, other = results(finished), results(tmp_path / "run")
    for mine, theirs in zip(one["cells"], other["cells"], strict=True):
        for name in ("return_mean", "return_low", "return_high"):
            assert theirs[name] / unit == pytest.approx(mine[name], abs=0.11), name
    for name in ("detection_rate", "auc_roc", "false_positive_rate"):
        mine, theirs = (r["shields"]["quantile"]["detection"][name] for r in (one, other))
        assert theirs == pytest.approx(mine, abs=0.05), name
    mine, theirs = (r["followed"]["quantile"]["coverage"]["mean"] for r in (one, other))
    assert theirs == pytest.approx(mine, abs=0.15)


def test_noise_that_the_config_states_is_told_as_set(finished, tmp_path, capsys):
    given = [f"data.path={finished / 'dataset.npz'}", "shield.quantile.return_noise=0.3"]
    assert main(["train", f"run_dir={tmp_path / 'run'}", *HERE, *given]) == 0
    assert "noise on returns 0.3 (set)" in " ".join(capsys.readouterr().out.split())


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


@pytest.mark.parametrize(
    ("unit", "said"), [(1.0, "0.50"), (1e-6, "5.0e−7"), (1e6, "5.0e5"), (200, "100")]
)
def test_the_mean_while_collecting_has_the_digits_that_it_is_worth(unit, said):
    notes = []
    tell = _Teller(SimpleNamespace(advance=notes.append))
    tell(unit * value for value in [0, 1] * 20)
    assert notes[-1].endswith(f"mean return {said}")
    tell = _Teller(SimpleNamespace(advance=notes.append))
    tell([-283.4, -51.2])
    assert notes[-1].endswith("mean return −167")


def test_states_and_bounds_in_small_units_are_told_with_their_digits():
    far = {"component": 0, "value": 3e-6, "low": -1e-6, "high": 1e-6}
    source = {"run": "r", "shield": "quantile", "chosen": "named", "state": [3e-6]}
    lines = ask._source_lines({**source, "outside": [far]})
    assert ("outside", "number 1, 3.00e−6: no state of the data is beyond −1.00e−6 to 1.00e−6, "
            "so that nothing is promised here") in lines  # fmt: skip
    ((_, told),) = ask._bound_lines(1e-6, 5e-7, 9)
    assert told == "no policy gets a return above 1.000e−6 from here"
    ((_, told),) = ask._bound_lines(321.64, 280, 1)
    assert told == "no policy gets a return above 321.6 from here"


def test_returns_are_told_as_exactly_as_the_noise_of_a_shield_lets_it_know_them():
    shield = MixtureShield(1, hidden_dim=4, n_layers=1, n_components=1, return_noise=0.01)
    assert told_decimals(shield) == 3
    shield.return_noise = 1e-8
    assert told_decimals(shield) == 9
    shield.return_noise = 1.0
    assert told_decimals(shield) == 1
    shield.return_noise = 0.0
    assert told_decimals(shield) is None

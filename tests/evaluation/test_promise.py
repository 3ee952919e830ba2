import numpy as np
import pytest
import torch

from flowshield.data import TrajectoryDataset
from flowshield.errors import NotCalibratedError
from flowshield.evaluation.promise import (
    calibration_error,
    false_alarms,
    pooled,
    promised_alarms,
    promised_scores,
)
from flowshield.evaluation.records import shield_record
from flowshield.models import BaseShield


class CentreShield(BaseShield):
    """Likes returns near zero: a conformal promise holds for any score."""

    def compute_loss(self, state, command):
        return -self.log_prob(state, command).mean()

    def log_prob(self, state, command, n_steps=None):
        return -(command[:, 1] ** 2)

    def sample_with_log_prob(self, state, n_samples, generator=None):
        normal = torch.randn(len(state), n_samples, 2, generator=generator)
        return normal + 1, -((normal[..., 1] + 1) ** 2)


def walks(n, seed):
    """Episodes of 1 to 8 steps; the longer ones reach further, and states say how far in."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 9, n)
    ends = np.zeros(lengths.sum(), bool)
    ends[lengths.cumsum() - 1] = True
    states = np.concatenate([np.arange(k) for k in lengths])[:, None] + 0.1 * rng.random((1, 2))
    states = states.astype(np.float32)
    return TrajectoryDataset.from_arrays(states, states[:, :1], rng.normal(size=len(ends)), ends)


def calibrated(unit, groups=1):
    shield = CentreShield(2)
    shield.calibrate(walks(1999, seed=0), alpha=0.1, unit=unit, groups=groups)
    return shield


def flagged_steps(shield, data):
    states, commands = torch.tensor(data.states), torch.tensor(data.commands)
    return shield.is_ood(states, commands).numpy()


def test_levels_without_a_threshold_are_left_out():
    class Blind(CentreShield):
        def log_prob(self, state, command, n_steps=None):
            likely = super().log_prob(state, command)
            return torch.where(likely < -8.0, -torch.inf, likely)

    shield, data = Blind(2), walks(300, seed=1)
    shield.calibrate(walks(1999, seed=0), alpha=0.5)
    blind = (shield.calibration.scores[0] == -torch.inf).double().mean()
    assert 0.02 < blind < 0.5  # some levels of the report have no finite threshold
    record = shield_record(shield, data, [], n_states=20, margin=20.0, seed=0)
    told = [level["alpha"] for level in record["false_alarms_by_level"]]
    assert told == [a for a in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5) if a > blind]
    assert record["detection"]["calibration_error"] < 0.1


def test_alarms_of_the_unit_episode_are_episodes_flagged_anywhere():
    shield, data = calibrated("episode"), walks(500, seed=1)
    (alarms,) = promised_alarms(promised_scores(shield, data, 0), shield.calibration)
    flagged = np.add.reduceat(flagged_steps(shield, data), data.episode_starts) > 0
    assert (alarms.count, alarms.n) == (flagged.sum(), 500)
    assert alarms.low <= 0.1 <= alarms.high


def test_alarms_of_the_unit_step_are_one_step_an_episode():
    shield, data = calibrated("step"), walks(2000, seed=2)
    (alarms,) = promised_alarms(promised_scores(shield, data, 0), shield.calibration)
    assert alarms.n == 2000 and alarms.low <= 0.1 <= alarms.high


@pytest.mark.parametrize("unit", ["step", "episode"])
def test_every_group_keeps_its_own_promise(unit):
    shield, data = calibrated(unit, groups=2), walks(2000, seed=3)
    alarms = promised_alarms(promised_scores(shield, data, 0), shield.calibration)
    assert len(alarms) == 2
    for group in alarms:
        assert group.rate == pytest.approx(0.1, abs=0.03)
    together = pooled(alarms)
    assert together.count == sum(group.count for group in alarms)
    assert np.isnan([together.low, together.high]).all()


@pytest.mark.parametrize("unit", ["step", "episode"])
def test_calibration_error_is_small_for_what_was_promised(unit):
    shield = calibrated(unit)
    assert calibration_error(shield, promised_scores(shield, walks(3000, seed=4), 0)) < 0.03


@pytest.mark.parametrize(("unit", "groups"), [("step", 1), ("episode", 1), ("episode", 2)])
def test_the_record_holds_what_was_promised(unit, groups):
    shield, data = calibrated(unit, groups), walks(200, seed=5)
    record = shield_record(shield, data, [(3, 0.5)], n_states=50, margin=20.0, seed=0)
    assert record["calibration"]["unit"] == unit
    assert len(record["false_alarms_by_group"]) == groups
    assert record["false_alarms"]["count"] == sum(
        group["count"] for group in record["false_alarms_by_group"]
    )
    (level,) = [row for row in record["false_alarms_by_level"] if row["alpha"] == 0.1]
    assert level["rate"] == record["false_alarms"]["rate"]


def test_what_was_not_computed_is_counted_once_however_often_it_is_measured():
    shield, data = calibrated("step"), walks(60, seed=6)
    log_prob = shield.log_prob

    def broken(state, command, n_steps=None):
        return torch.full_like(log_prob(state, command), torch.nan)

    shield.log_prob = broken
    counts = [
        shield_record(shield, data, [], n_states=20, margin=20.0, seed=0)["n_uncomputed"]
        for _ in range(2)
    ]
    assert counts[0] == counts[1] > 0


def test_nobody_in_a_group_is_no_rate():
    assert np.isnan(false_alarms(np.zeros(0), 1.0).rate)


def test_without_calibration_nothing_was_promised():
    with pytest.raises(NotCalibratedError):
        promised_scores(CentreShield(2), walks(5, seed=7), 0)

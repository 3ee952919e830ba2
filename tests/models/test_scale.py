import math

import numpy as np
import pytest

from flowshield.models.scale import ReturnScale, round_step, spread

RNG = np.random.default_rng(3)
NORMAL = RNG.standard_normal(20_000)


def test_the_spread_of_a_normal_law_is_its_deviation():
    assert spread(7.0 + 3.0 * NORMAL) == pytest.approx(3.0, rel=0.02)


@pytest.mark.parametrize("share", [0.005, 0.05, 0.25])
def test_rare_values_of_another_size_leave_the_spread_as_it_is(share):
    mixed = np.where(RNG.random(len(NORMAL)) < share, -1e6, NORMAL)
    assert 1.0 < spread(mixed) < 4.0


def test_values_that_tie_do_not_hide_the_others():
    sparse = np.where(RNG.random(len(NORMAL)) < 0.9, 0.0, 5.0 + NORMAL)
    assert 4.0 < spread(sparse) < 6.0
    assert spread([0.0] * 5000 + [1.0]) > 0.0
    assert spread([2.0] * 50) == 0.0
    assert spread([2.0]) == 0.0


@pytest.mark.parametrize("decade", range(-6, 7))
def test_a_change_of_the_unit_changes_every_derived_number_with_it(decade):
    unit = float(f"1e{decade}")
    for returns in (NORMAL, np.round(30 * NORMAL), RNG.random(4000) < 0.5):
        one, other = ReturnScale.of(returns), ReturnScale.of(unit * np.asarray(returns, float))
        for name in ("spread", "noise", "tolerance", "step", "margin"):
            assert getattr(other, name) == pytest.approx(unit * getattr(one, name)), name
        assert (other.grid is None) == (one.grid is None)


@pytest.mark.parametrize(
    ("returns", "grid"),
    [
        (np.arange(500), 1.0),
        (np.arange(100) * np.float32(0.1), 0.1),
        (RNG.integers(0, 2, 300), 1.0),
        (RNG.integers(-3, 9, 300) * 0.25, 0.25),
        (RNG.choice([0.0, 10.0, 25.0], 300), 5.0),
        (RNG.choice([0.0, 100.0, -7.0], 300), 1.0),
        (np.append(RNG.integers(0, 50, 3000), [1234567.891] * 9), 1.0),  # glitches
        (np.where(RNG.random(3000) < 0.003, 1.0, 0.0), 1.0),
        (np.where(RNG.random(3000) < 0.995, 0.0, NORMAL[:3000]), None),
        (np.arange(20_000) % 400 == 7, 1.0),  # a success in 400
        (5.0 * (np.arange(20_000) % 400 == 7), 5.0),
        (np.where(np.arange(20_000) % 125 == 7, NORMAL, 0.0), None),  # zeros are on every grid
        (NORMAL, None),
        (1e6 + NORMAL, None),
        (np.full(30, 4.0), None),
        (50_000.0 + RNG.integers(0, 200, 3000), 1.0),  # float32 has digits for that
        (np.float32(5000.0 + 0.1 * RNG.integers(0, 200, 3000)), 0.1),
        (np.float32(50_000.0 + 100 * NORMAL), None),
        (np.float32(3e6 + 0.1 * RNG.integers(0, 200, 3000)), None),  # and none for that
        ([], None),
    ],
)
def test_a_grid_is_recognised(returns, grid):
    found = ReturnScale.of(returns).grid
    assert found == (None if grid is None else pytest.approx(grid))


HORIZONS = RNG.integers(1, 60, len(NORMAL))


@pytest.mark.parametrize("constant", [0.0, -0.5, 100.0, -1e4])
def test_a_constant_in_every_reward_leaves_the_spread_at_one_horizon(constant):
    commands = np.stack([HORIZONS, 3.0 * NORMAL + constant * HORIZONS], axis=1).astype(np.float32)
    scale = ReturnScale.of_commands(commands)
    assert scale.given_horizon == pytest.approx(3.0, rel=0.02)
    assert scale.reward_per_step == pytest.approx(constant, abs=0.01)
    assert scale.noise <= 0.3 and scale.step <= 5.0
    if constant:
        assert scale.spread > 2 * scale.given_horizon and "at one horizon" in str(scale)


def test_success_is_told_from_failure_beside_a_cost_per_step():
    won = RNG.random(len(NORMAL)) < 0.5
    scale = ReturnScale.of_commands(np.stack([HORIZONS, won - 1.0 * HORIZONS], axis=1))
    assert scale.grid == scale.coarse_grid == 1.0
    assert scale.noise <= 0.1 and scale.step <= 0.5


def test_returns_that_are_the_horizon_have_no_spread_beside_it():
    for reward in (1.0, 0.37, -1.7):
        commands = np.stack([HORIZONS, reward * HORIZONS], axis=1).astype(np.float32)
        scale = ReturnScale.of_commands(commands)
        assert scale.given_horizon is None and scale.noise == pytest.approx(abs(reward), rel=1e-3)
    one = ReturnScale.of_commands([[5.0, 3.0]] * 20)  # and one horizon alone explains nothing
    assert one.given_horizon is None and one.step == 0.5


def test_what_follows_from_the_returns_of_known_tasks():
    # LunarLander's spread: the noise and the step that its figures were measured with
    landings = ReturnScale(spread=110.0, grid=None)
    assert (landings.noise, landings.tolerance, landings.step) == (1.0, 0.1, 20.0)
    # success or not: neither outcome may reach the other, and half of one is no return
    success = ReturnScale.of([0.0, 1.0] * 50)
    assert success.noise == 0.01 and success.step == 0.2 and success.decimals == 2
    # whole returns of many sizes are smoothed into each other; a bound that is passed by as much
    # as the noise would not be passed at all
    few = ReturnScale.of(np.arange(20))
    assert (few.noise, few.step, few.margin) == (1.0, 1.0, 4.0)
    assert landings.margin == landings.step
    # all returns alike: their size is the scale, or anything where it is zero
    assert ReturnScale.of(np.full(9, 5.0)).noise == 0.1
    assert ReturnScale.of(np.full(9, 5e6)).step == 1e6
    assert ReturnScale.of(np.zeros(9)).noise == ReturnScale.of([]).noise == 0.01


@pytest.mark.parametrize(
    ("spread", "decimals"),
    [(1e-6, 8), (1.0, 2), (110.0, 0), (9e3, 0), (1e5, 0), (1e6, -4), (1e9, -7)],
)
def test_decimals_tell_a_hundredth_of_the_spread_and_no_more(spread, decimals):
    assert ReturnScale(spread, None).decimals == decimals


@pytest.mark.parametrize("value", [3e-7, 0.9, 1.0, 1.6, 3.3, 60.0, 8e5])
def test_a_rounded_step_is_near_and_short(value):
    step = round_step(value)
    assert abs(math.log(step / value)) <= math.log(math.sqrt(2.5)) + 1e-9
    assert f"{step:.0e}"[0] in "125" and float(f"{step:.0e}") == step

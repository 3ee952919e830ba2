import numpy as np
import pytest
import torch

from flowshield.errors import ConfigError, DataError, ShapeError
from flowshield.models.intent import INTENTS, Intent, regret, return_range
from flowshield.models.scale import spread

COMMAND = torch.tensor([100.0, 50.0], dtype=torch.float64)  # a return of 50 in 100 steps


def utility(intent, g, t, command=COMMAND):
    values = (torch.as_tensor(one, dtype=torch.float64) for one in (g, t))
    return intent.utility(*values, command).tolist()


def test_at_least_pays_the_return_up_to_what_was_asked_whenever_it_comes():
    assert utility(Intent(), [-20, 49, 50, 80, 80], [5, 100, 300, 1, 500]) == [-20, 49, 50, 50, 50]


def test_exact_pays_nearness_and_charges_only_steps_that_are_late():
    exact = Intent("exact", step_cost=0.5)
    assert utility(exact, [50, 40, 63, 50, 40], [100, 100, 20, 104, 110]) == [0, -10, -13, -2, -15]
    assert utility(Intent("exact"), [50, 40], [999, 999]) == [0, -10]


def test_the_default_is_at_least():
    assert Intent() == Intent("at_least", 0.0) and INTENTS == ("at_least", "exact")


@pytest.mark.parametrize("intent", [Intent(), Intent("exact", 0.5)])
def test_outcomes_and_commands_broadcast(intent):
    rng = np.random.default_rng(0)
    g, t = torch.tensor(rng.normal(50, 20, (2, 7, 1))), torch.tensor(rng.normal(100, 30, (7, 1)))
    commands = torch.tensor(rng.normal((100, 50), 10, (3, 2)))
    found = intent.utility(g, t, commands)
    assert found.shape == (2, 7, 3)
    alone = intent.utility(g[1, 4, 0], t[4, 0], commands[2])
    assert found[1, 4, 2] == alone


@pytest.mark.parametrize("intent", [Intent(), Intent("exact", 0.5)])
def test_utility_is_equivariant_to_the_scale_of_rewards(intent):
    rng = np.random.default_rng(1)
    g, t = rng.normal(50, 20, 40), rng.integers(50, 150, 40)
    scaled = Intent(intent.kind, 1e3 * intent.step_cost)
    command = COMMAND * torch.tensor([1.0, 1e3])
    assert utility(scaled, 1e3 * g, t, command) == pytest.approx(
        [1e3 * u for u in utility(intent, g, t)]
    )


def test_expected_utility_is_the_mean_over_every_pair_of_levels():
    """The joint law does not matter: any coupling of G and T has this mean, independence too."""
    rng = np.random.default_rng(2)
    g = torch.tensor(rng.normal(50, 20, (4, 9)))
    t = torch.tensor(rng.normal(100, 30, (4, 5)))
    commands = torch.tensor(rng.normal((100, 50), 10, (4, 2)))
    for intent in (Intent(), Intent("exact", 0.5)):
        pairs = intent.utility(g[:, :, None], t[:, None, :], commands[:, None, None, :])
        found = intent.expected_utility(g, t, commands)
        assert torch.allclose(found, pairs.mean((1, 2)))


def test_expected_utility_of_candidates_asks_each_quantity_of_the_same_command():
    """A guard predicts [starts, candidates, levels] and judges all by the one request."""
    g = torch.tensor([[[10.0, 90.0], [50.0, 50.0]]])
    t = torch.full((1, 2, 1), 100.0)
    expected = Intent().expected_utility(g, t, torch.tensor([[[100.0, 50.0]]]))
    assert expected.tolist() == [[30.0, 50.0]]  # the mean of min(G, R), not min of the mean


@pytest.mark.parametrize("intent", [Intent(), Intent("exact", 0.5)])
def test_a_prediction_that_is_nan_stays_nan(intent):
    nan = torch.full((2,), torch.nan)
    assert intent.expected_utility(nan, torch.ones(2), COMMAND.float()).isnan()


def test_the_cost_of_a_step_is_a_spread_of_returns_per_spread_of_steps():
    rng = np.random.default_rng(3)
    returns, lengths = rng.normal(0, 30, 400), rng.integers(50, 150, 400)
    cost = Intent.of_data("exact", returns, lengths).step_cost
    assert cost == spread(returns) / spread(lengths) > 0
    assert Intent.of_data("exact", 1e3 * returns, lengths).step_cost == pytest.approx(1e3 * cost)
    assert Intent.of_data("exact", returns, 2 * lengths).step_cost == pytest.approx(cost / 2)


def test_steps_are_free_where_all_episodes_are_of_one_length_and_for_at_least():
    returns, lengths = np.arange(9.0), np.arange(9)
    assert Intent.of_data("exact", returns, np.full(9, 200)) == Intent("exact", 0.0)
    assert Intent.of_data("at_least", returns, lengths) == Intent()


def test_regret_is_against_the_best_candidate():
    candidates = torch.tensor([[10.0, 50.0, 30.0], [-5.0, -9.0, -7.0]])
    assert regret(candidates, torch.tensor([30.0, -5.0])).tolist() == [20.0, 0.0]


def test_the_range_is_of_the_middle_98_percent_and_scales():
    returns = np.linspace(0, 100, 1001)
    assert return_range(returns) == pytest.approx(98.0)
    assert return_range(1e-3 * returns + 7) == pytest.approx(0.098)
    assert return_range([*returns, 1e6]) < 99.0  # a glitch is not the unit
    assert return_range([0.0] * 999 + [1.0]) == 1.0  # one success in a thousand
    assert return_range([3.0, 3.0]) == 0.0


@pytest.mark.parametrize(
    ("kind", "cost", "told"),
    [
        ("atleast", 0.0, "did you mean 'at_least'"),
        ("exact", -1.0, "step_cost >= 0"),
        ("exact", float("nan"), "step_cost >= 0"),
        ("exact", float("inf"), "step_cost >= 0"),
        ("at_least", 0.5, "only exact counts steps"),
    ],
)
def test_other_intents_are_refused(kind, cost, told):
    with pytest.raises(ConfigError, match=told):
        Intent(kind, cost)


def test_bad_arguments_are_refused():
    with pytest.raises(ConfigError, match="unknown intent"):
        Intent.of_data("most", [1.0, 2.0], [1, 2])
    with pytest.raises(ShapeError, match="one length per return"):
        Intent.of_data("exact", [1.0, 2.0], [1])
    with pytest.raises(ShapeError, match=r"\[n\]"):
        return_range([[1.0]])
    with pytest.raises(DataError, match="1 are NaN"):
        return_range([1.0, float("nan")])
    with pytest.raises(DataError, match="at least one episode"):
        return_range([])
    with pytest.raises(ShapeError, match=r"\(H, R\)"):
        Intent().utility(torch.ones(3), torch.ones(3), torch.ones(3))

import functools
import math
import warnings

import numpy as np
import pytest
import torch

from flowshield.errors import DataError, DataWarning
from flowshield.models import FlowMatchingShield, MixtureShield, QuantileShield
from flowshield.models.standardizer import CommandStandardizer, Standardizer


def raw_rows():
    torch.manual_seed(0)
    return torch.randn(500, 3, dtype=torch.float64) @ torch.diag(
        torch.tensor([3.0, 0.01, 200.0], dtype=torch.float64)
    ) + torch.tensor([5.0, -1.0, 1e4], dtype=torch.float64)


def fitted():
    standardizer = Standardizer(3).double()
    standardizer.fit(raw_rows())
    return standardizer


def test_standardized_rows_have_mean_0_and_deviation_1():
    z = fitted()(raw_rows())
    torch.testing.assert_close(z.mean(0), torch.zeros(3).double(), rtol=0, atol=1e-9)
    torch.testing.assert_close(z.std(0, correction=0), torch.ones(3).double())


def test_inverse_undoes_standardizing():
    standardizer, x = fitted(), raw_rows()
    torch.testing.assert_close(standardizer.inverse(standardizer(x)), x)


def test_log_abs_det_is_that_of_the_inverse():
    standardizer = fitted()
    jacobian = torch.autograd.functional.jacobian(standardizer.inverse, torch.zeros(3).double())
    torch.testing.assert_close(standardizer.log_abs_det(), torch.linalg.slogdet(jacobian)[1])


def test_a_dimension_that_never_varies_is_only_shifted():
    standardizer = Standardizer(2)
    x = torch.stack([torch.full((50,), 0.1), torch.arange(50.0)], dim=1)
    standardizer.fit(x)
    assert float(standardizer.std[0]) == 1.0
    torch.testing.assert_close(standardizer(x)[:, 0], torch.zeros(50), rtol=0, atol=1e-6)


def test_statistics_travel_with_the_weights():
    other = Standardizer(3).double()
    other.load_state_dict(fitted().state_dict())
    assert torch.equal(other(raw_rows()), fitted()(raw_rows()))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_rows_that_are_not_finite_are_refused(bad):
    rows = torch.zeros(4, 3)
    rows[2, 1] = bad
    with pytest.raises(DataError, match="finite.*1 non-finite"):
        Standardizer(3).fit(rows)


def test_no_rows_are_refused():
    with pytest.raises(DataError, match="at least one row"):
        Standardizer(3).fit(torch.zeros(0, 3))


# ------------------------------------------------------------------ rare values of another size

RNG = np.random.default_rng(5)
BULK = RNG.normal(3.0, 2.0, 20_000)
OUTLIERS = {
    "glitches": np.append(BULK, [1e6] * 100),
    "both sides": np.append(BULK, [1e6] * 50 + [-1e9] * 50),
    "penalty": np.where(RNG.random(len(BULK)) < 0.05, BULK - 1000.0, BULK),
    "frequent penalty": np.where(RNG.random(len(BULK)) < 0.15, BULK - 1000.0, BULK),
    "mostly 0": np.append(np.where(RNG.random(len(BULK)) < 0.9, 0.0, BULK), [1e5] * 20),
}


def bent(name, dtype=torch.float64):
    """A standardizer of an ordinary column and of one with outliers, and the rows."""
    column = torch.tensor(OUTLIERS[name])
    rows = torch.stack([torch.linspace(0, 1, len(column), dtype=torch.float64), column], dim=1)
    standardizer = Standardizer(2).to(dtype)
    with pytest.warns(DataWarning):
        standardizer.fit(rows.to(dtype), ["time", "return"])
    assert standardizer.bent == (1,)
    return standardizer, rows.to(dtype)


@pytest.mark.parametrize("name", OUTLIERS)
def test_what_most_values_differ_by_keeps_its_size_beside_outliers(name):
    standardizer, rows = bent(name)
    z = standardizer(rows)[:, 1]
    middle = (rows[:, 1] > 1.0) & (rows[:, 1] < 5.0)  # a deviation to each side
    assert 0.15 < float(z[middle].std()) < 1.5
    assert float(z.abs().max()) < 8.0


@pytest.mark.parametrize("name", OUTLIERS)
def test_a_bent_column_rises_and_is_undone(name):
    standardizer, rows = bent(name)
    x = rows.sort(dim=0).values
    far = torch.tensor([[0.5, -1e12], [0.5, -3e7], [0.5, 2e4], [0.5, 5e8], [0.5, 1e12]]).double()
    x = torch.cat([x, far]).sort(dim=0).values
    z = standardizer(x)
    assert bool((z.diff(dim=0) >= 0).all())
    assert bool((z[:, 1].diff()[x[:, 1].diff() > 1e-3] > 0).all())
    torch.testing.assert_close(standardizer.inverse(z), x, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("name", OUTLIERS)
def test_the_jacobian_of_a_bent_column_is_the_slope_everywhere(name):
    standardizer, rows = bent(name)
    knots = standardizer.knots[1][standardizer.knots[1].isfinite()]
    ends = torch.stack([knots[0] - 3.0, knots[0] - 1e5, knots[-1] + 3.0, knots[-1] + 1e5])
    column = torch.cat([rows[::500, 1], (knots[1:] + knots[:-1]) / 2, ends]).requires_grad_()
    x = torch.stack([torch.zeros_like(column), column], dim=1)
    (slope,) = torch.autograd.grad(standardizer(x)[:, 1].sum(), column)
    expected = standardizer.std[0].log() - slope.log()
    torch.testing.assert_close(standardizer.log_abs_det(x), expected)


def test_a_density_over_a_bent_column_integrates_to_one():
    standardizer, _ = bent("penalty")
    grid = torch.linspace(-1200.0, 200.0, 1_400_001, dtype=torch.float64)
    x = torch.stack([torch.zeros_like(grid), grid], dim=1)
    log_p = torch.distributions.Normal(0.0, 1.0).log_prob(standardizer(x)[:, 1])
    log_p = log_p - standardizer.log_abs_det(x) + standardizer.std[0].log()
    assert float(torch.trapezoid(log_p.exp(), grid)) == pytest.approx(1.0, abs=2e-3)


def test_the_slope_of_a_bent_column_has_no_steps():
    standardizer, _ = bent("penalty")
    at = standardizer.knots[1][standardizer.knots[1].isfinite()]
    before, after = (
        standardizer.log_abs_det(torch.stack([torch.zeros_like(at), at + d], dim=1))
        for d in (-1e-7, 1e-7)
    )
    torch.testing.assert_close(before, after, rtol=0, atol=1e-3)


@pytest.mark.parametrize("exponent", [-20, -3, 0, 4, 20])
def test_a_bent_column_does_not_depend_on_the_unit(exponent):
    one, rows = bent("glitches")
    unit = 2.0**exponent
    other = Standardizer(2).double()
    with pytest.warns(DataWarning):
        other.fit(rows * unit)
    torch.testing.assert_close(other(rows * unit), one(rows))
    torch.testing.assert_close(
        other.log_abs_det(rows * unit), one.log_abs_det(rows) + 2 * math.log(unit)
    )


def test_a_bent_column_needs_its_rows_for_the_jacobian():
    with pytest.raises(DataError, match="raw rows"):
        bent("glitches")[0].log_abs_det()


def test_bent_columns_travel_with_the_weights():
    standardizer, rows = bent("penalty", torch.float32)
    other = Standardizer(2)
    other.load_state_dict(standardizer.state_dict())
    assert other.bent == (1,) and torch.equal(other(rows), standardizer(rows))
    other.fit(torch.randn(100, 2))  # and are forgotten with the next data
    assert other.bent == () and not torch.isfinite(other.knots).any()


def paid_per_step(constant, dtype=torch.float64):
    rng = np.random.default_rng(5)
    horizon = rng.integers(1, 300, 4000)
    returns = constant * horizon + 4.0 * rng.standard_normal(4000)
    rows = torch.tensor(np.stack([horizon, returns], axis=1)).to(dtype)
    standardizer = CommandStandardizer().to(dtype)
    standardizer.fit(rows)
    return standardizer, rows


@pytest.mark.parametrize("constant", [100.0, -2.0, 1e4])
def test_what_a_reward_per_step_leaves_has_unit_deviation(constant):
    standardizer, rows = paid_per_step(constant)
    z = standardizer(rows)
    assert standardizer.sheared
    assert z.std(dim=0, correction=0).tolist() == pytest.approx([1.0, 1.0], rel=1e-3)
    assert abs(float(torch.corrcoef(z.T)[0, 1])) < 0.1  # the horizon does not tell it
    torch.testing.assert_close(standardizer.inverse(z), rows)
    jacobian = torch.func.vmap(torch.func.jacfwd(standardizer))(rows[:20])
    expected = -jacobian.det().abs().log()
    torch.testing.assert_close(standardizer.log_abs_det(rows[:20]).expand(20), expected)


@pytest.mark.parametrize("constant", [0.0, 0.05])
def test_returns_that_horizons_do_not_explain_are_taken_as_they_are(constant):
    standardizer, rows = paid_per_step(constant, torch.float32)
    plain = Standardizer(2)
    plain.fit(rows)
    assert not standardizer.sheared and torch.equal(standardizer(rows), plain(rows))


def test_a_reward_per_step_travels_with_the_weights():
    standardizer, rows = paid_per_step(-3.0, torch.float32)
    other = CommandStandardizer()
    other.load_state_dict(standardizer.state_dict())
    assert other.sheared and torch.equal(other(rows), standardizer(rows))
    other.fit(torch.randn(100, 2))
    assert not other.sheared


def test_the_data_that_a_standardizer_is_fitted_to_stay_as_they_are():
    _, rows = paid_per_step(100.0)
    before = rows.clone()
    CommandStandardizer().double().fit(rows)
    assert torch.equal(rows, before)


def test_outliers_are_told_with_column_share_and_what_to_do():
    rows = torch.tensor(np.stack([BULK, OUTLIERS["glitches"][100:]], axis=1))
    with pytest.warns(DataWarning) as told:
        Standardizer(2).fit(rows, ["a", "b"])
    (message,) = (str(one.message) for one in told)
    assert message.startswith("b: 0.5% of the values") and "remove" in message


@pytest.mark.parametrize(
    "column",
    [
        BULK,
        1e4 + BULK,
        np.sort(RNG.exponential(1.0, 20_000)),
        RNG.integers(0, 2, 20_000),
        np.where(RNG.random(20_000) < 0.999, 0.0, 1.0),
        RNG.standard_t(3, 20_000),
    ],
    ids=["normal", "offset", "exponential", "flags", "rare flags", "heavy tails"],
)
def test_ordinary_columns_stay_affine_and_are_not_warned_of(column):
    rows = torch.tensor(np.asarray(column, float)[:, None])
    standardizer = Standardizer(1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        standardizer.fit(rows.float())
    assert standardizer.bent == ()
    assert standardizer.std.item() == pytest.approx(rows.std(correction=0).item(), rel=1e-4)


# ------------------------------------------------------------------ small deviations, large offsets


@pytest.mark.parametrize("decade", range(-30, 31, 5))
def test_a_small_deviation_is_no_constant(decade):
    unit = float(f"1e{decade}")
    standardizer = Standardizer(1)
    standardizer.fit(torch.tensor(unit * BULK[:, None]).float())
    z = standardizer(torch.tensor(unit * BULK[:, None]).float())
    assert float(z.std()) == pytest.approx(1.0, rel=1e-3)


def test_what_rounding_explains_is_a_constant():
    rows = torch.tensor([[1e6], [1e6 + 0.0625]]).repeat(100, 1)  # neighbours in float32
    standardizer = Standardizer(1)
    with pytest.warns(DataWarning, match="column 0: .*near 1e.06.*most of their digits are lost"):
        standardizer.fit(rows)
    assert float(standardizer.std) == 1.0


@pytest.mark.parametrize("offset", [1e7, 1e9])
def test_a_column_of_which_an_offset_leaves_nothing_is_told(offset):
    rows = torch.tensor(offset + 10.0 * BULK[:, None]).float() / 10.0
    with pytest.warns(DataWarning, match="position: .*most of their digits are lost"):
        Standardizer(1).fit(rows, ["position"])


def test_a_constant_is_not_warned_of():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Standardizer(2).fit(torch.tensor([[0.1, 1e7]]).repeat(50, 1))


def test_digits_that_an_offset_costs_are_told():
    rows = torch.tensor(1e6 + 0.2 * BULK[:, None]).float()
    with pytest.warns(DataWarning, match=r"position: .*near 1e\+06.*0\.062.*Subtract 1e\+06"):
        Standardizer(1).fit(rows, ["position"])


# ------------------------------------------------------------------ whole shields


@pytest.mark.parametrize(
    "make",
    [MixtureShield, QuantileShield, functools.partial(FlowMatchingShield, field_dim=8)],
    ids=["mixture", "quantile", "flow_matching"],
)
def test_a_shields_density_over_bent_returns_is_that_of_its_samples(make):
    """The samples' log-densities are those of log_prob, whose sum is the samples' share."""
    torch.manual_seed(0)
    shield = make(1, hidden_dim=16, n_layers=2).eval()
    commands = torch.tensor(np.stack([RNG.integers(1, 30, 20_000), OUTLIERS["penalty"]], 1)).float()
    with pytest.warns(DataWarning, match="^return: "):
        shield.fit_standardizers(torch.randn(len(commands), 1), commands)
    state = torch.zeros(1, 1)
    samples, log_prob = shield.sample_with_log_prob(state, 200)
    read = shield.log_probs(state, samples)
    # between the sizes a standardized step is a thousand raw ones: float32 has few digits there
    assert float((read - log_prob).abs().median()) < 1e-2
    horizons, returns = torch.arange(-20.0, 60.0, 0.5), torch.linspace(-1050.0, 60.0, 8000)
    grid = torch.cartesian_prod(horizons, returns)
    with torch.no_grad():
        p = torch.cat([shield.log_probs(state, part[None])[0] for part in grid.split(40_000)]).exp()
    total = torch.trapezoid(torch.trapezoid(p.view(len(horizons), -1), returns, dim=1), horizons)
    drawn, _ = shield.sample_with_log_prob(state, 20_000)
    inside = (drawn > grid[0]) & (drawn < grid[-1])
    share = inside.all(dim=2).float().mean()
    assert float(total) == pytest.approx(float(share), abs=0.03)


def test_bent_returns_have_no_mixture_of_normal_laws_given_the_horizon():
    torch.manual_seed(0)
    shield = MixtureShield(1, hidden_dim=8, n_layers=1).eval()
    horizons = RNG.integers(1, 30, 20_000)
    commands = torch.tensor(np.stack([horizons, OUTLIERS["penalty"]], 1)).float()
    with pytest.warns(DataWarning):
        shield.fit_standardizers(torch.randn(len(commands), 1), commands)
    with pytest.raises(DataError, match="returns of one size.*sample"):
        shield.conditional(torch.zeros(1, 1), 5.0)

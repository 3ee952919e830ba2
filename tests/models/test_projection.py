import functools
import math

import pytest
import torch

from flowshield.errors import ConfigError, DataError, ShapeError
from flowshield.models import (
    DiffusionShield,
    FlowMatchingShield,
    MixtureShield,
    ProjectionSettings,
    QuantileShield,
)
from flowshield.models.shields import ExchangeablePairs
from flowshield.models.shields.projection import (
    nearest_supported,
    scaled_distance,
    typical_score,
)
from flowshield.models.standardizer import Standardizer

UNITS = torch.tensor([60.0, 110.0])
LIMIT = -1.0  # the disc of radius 1

SMALL = {
    "flow_matching": functools.partial(FlowMatchingShield, field_dim=8, n_layers=1, n_steps=4),
    "diffusion": functools.partial(DiffusionShield, field_dim=8, n_layers=1, n_steps=4),
    "quantile": QuantileShield,
    "mixture": MixtureShield,
}


class Disc:
    """Supports scaled commands within 1 of the state, by the score -|z - state|^2.

    Args:
        mean: What is subtracted from raw commands before they are divided by UNITS.
        reach: Radius of the disc in which it samples.
    """

    def __init__(self, mean=(200.0, 50.0), reach=1.2):
        self.command_standardizer = Standardizer(2)
        self.command_standardizer.mean.copy_(torch.tensor(mean))
        self.command_standardizer.std.copy_(UNITS)
        self.reach, self.samples, self.calls, self.asked = reach, None, 0, []

    def score(self, state, command):
        return -((self.command_standardizer(command) - state) ** 2).sum(dim=1)

    def scores(self, state, commands):
        self.calls += 1
        self.asked.append(tuple(commands.shape[:2]))
        n = commands.shape[1]
        flat = self.score(state.repeat_interleave(n, 0), commands.reshape(-1, 2))
        return flat.view(len(state), n)

    def scored_samples(self, state, n_samples):
        generator = torch.Generator().manual_seed(0)
        radius, angle = torch.rand(2, n_samples, 1, generator=generator)
        radius, angle = self.reach * radius.sqrt(), 2 * math.pi * angle
        z = state.unsqueeze(1) + torch.cat([radius * angle.cos(), radius * angle.sin()], dim=1)
        self.samples = self.command_standardizer.inverse(z)
        score = self.score(state.repeat_interleave(n_samples, 0), self.samples.reshape(-1, 2))
        return self.samples.clone(), score.view(len(state), n_samples)


class TwoDiscs(Disc):
    """A second disc 4 to the right of the first, from which no sample ever comes."""

    def score(self, state, command):
        return torch.maximum(
            super().score(state, command),
            super().score(state + torch.tensor([4.0, 0.0]), command),
        )


def exactly(**options):
    """Settings that take the nearest, with nothing traded for it."""
    return ProjectionSettings(**{"horizon_weight": 1.0, "n_steps": 3, "typicality": 0.0, **options})


def requests(n=40, seed=0):
    """Raw commands of which about half are supported at their states."""
    generator = torch.Generator().manual_seed(seed)
    state = torch.randn(n, 2, generator=generator) * 0.3
    z = state + torch.randn(n, 2, generator=generator) * torch.linspace(0.2, 4, n).unsqueeze(1)
    return state, z * UNITS + torch.tensor([200.0, 50.0])


def nearest_distance(state, command, disc, horizon_weight):
    """The least scaled distance to the disc, by walking its edge."""
    angle = torch.linspace(0, 2 * math.pi, 20_001)
    edge = state.unsqueeze(1) + torch.stack([angle.cos(), angle.sin()], dim=1)
    difference = edge - disc.command_standardizer(command).unsqueeze(1)
    squares = horizon_weight * difference[..., 0] ** 2 + difference[..., 1] ** 2
    return squares.min(dim=1).values.sqrt()


def projected(shield, state, command, limit, settings):
    limits = torch.full((len(state),), limit, dtype=torch.float64)
    return nearest_supported(shield, state, command, limits, settings)


def random_shield(name):
    """Weights that are not trained, calibrated on the model's own samples."""
    torch.manual_seed(2)
    shield = SMALL[name](3, hidden_dim=16).eval()
    for parameter in shield.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    shield.command_standardizer.mean.copy_(torch.tensor([200.0, 50.0]))
    shield.command_standardizer.std.copy_(UNITS)
    states = torch.randn(400, 3)
    shield.calibrate(
        ExchangeablePairs(states.numpy(), shield.sample(states)[:, 0].detach().numpy()), 0.1
    )
    states = torch.randn(30, 3)
    spread = torch.linspace(0.1, 5, 30).unsqueeze(1) * UNITS
    return shield, states, shield.sample(states)[:, 0] + spread * torch.randn(30, 2)


def test_scaled_distance_by_hand():
    standardizer = Disc().command_standardizer
    a, b = torch.tensor([[260.0, 50.0]]), torch.tensor([[140.0, 380.0]])  # 2 and 3 deviations
    for weight in (1.0, 0.25, 0.0):
        expected = math.sqrt(weight * 4 + 9)
        assert float(scaled_distance(a, b, standardizer, weight)) == pytest.approx(expected)
    assert float(scaled_distance(a, a, standardizer, 1.0)) == 0.0


@pytest.mark.parametrize("n_steps", [0, 3])
def test_supported_requests_come_back_as_they_are(n_steps):
    disc, (state, command) = Disc(), requests()
    before = command.clone()
    found = projected(disc, state, command, LIMIT, exactly(n_steps=n_steps))
    supported = disc.score(state, command) >= LIMIT
    assert 10 < int(supported.sum()) < 35
    assert torch.equal(found.changed, ~supported)
    assert torch.equal(found.command[supported], command[supported])
    assert bool((found.distance[supported] == 0).all())
    assert torch.equal(command, before) and found.command is not command


@pytest.mark.parametrize("n_steps", [0, 1, 4])
@pytest.mark.parametrize("horizon_weight", [1.0, 0.01])
def test_what_comes_back_is_supported_and_says_what_it_is(n_steps, horizon_weight):
    disc, (state, command) = Disc(), requests()
    settings = exactly(n_steps=n_steps, horizon_weight=horizon_weight)
    found = projected(disc, state, command, LIMIT, settings)
    assert found.supported.all()
    assert bool((disc.score(state, found.command) >= LIMIT).all())
    torch.testing.assert_close(found.score, disc.score(state, found.command))
    expected = scaled_distance(found.command, command, disc.command_standardizer, horizon_weight)
    torch.testing.assert_close(found.distance, expected, rtol=1e-4, atol=1e-5)
    again = projected(disc, state, found.command, LIMIT, settings)
    assert torch.equal(again.command, found.command) and not again.changed.any()


# measured: at most 0.03 too far
@pytest.mark.parametrize("horizon_weight", [1.0, 0.1, 0.01])
def test_with_many_candidates_it_is_the_nearest_point_of_the_disc(horizon_weight):
    disc, (state, command) = Disc(), requests()
    settings = exactly(n_candidates=4000, horizon_weight=horizon_weight)
    found = projected(disc, state, command, LIMIT, settings)
    exact = nearest_distance(state, command, disc, horizon_weight)[found.changed]
    excess = found.distance[found.changed] - exact
    assert float(excess.min()) > -1e-3 and float(excess.max()) < 0.05


def test_the_nearest_point_of_a_disc_lies_on_the_way_to_its_middle():
    disc, (state, command) = Disc(), requests()
    found = projected(disc, state, command, LIMIT, exactly(n_candidates=4000))
    z = disc.command_standardizer
    way = z(command) - state
    expected = state + way / way.norm(dim=1, keepdim=True)
    error = (z(found.command) - expected)[found.changed].norm(dim=1)
    assert float(error.max()) < 0.15


@pytest.mark.parametrize("horizon_weight", [1.0, 0.1, 0.01])
def test_a_few_candidates_and_rounds_come_within_a_few_percent_of_the_nearest(horizon_weight):
    disc, (state, command) = Disc(), requests(200)
    settings = ProjectionSettings(horizon_weight=horizon_weight, typicality=0.0)
    found = projected(disc, state, command, LIMIT, settings)
    exact = nearest_distance(state, command, disc, horizon_weight)[found.changed]
    distance = found.distance[found.changed]
    assert bool((distance > exact - 1e-3).all())
    assert float(distance.mean() / exact.mean()) < 1.05
    assert float((distance - exact).quantile(0.95)) < 0.05


def test_a_search_is_a_few_calls_and_what_is_done_leaves():
    disc, (state, command) = Disc(), requests(200)
    projected(disc, state, command, LIMIT, exactly(n_steps=3))
    rows = [asked[0] for asked in disc.asked]
    # one check, three rounds; each of no more than 64 commands a row
    assert disc.calls <= 4 and rows[0] == 200 and max(asked[1] for asked in disc.asked) <= 64
    assert all(after <= before for before, after in zip(rows, rows[1:], strict=False))
    disc = Disc()
    projected(disc, state[:0], command[:0], LIMIT, exactly())
    projected(
        disc, state[:1] * 0, command[:1] * 0 + disc.command_standardizer.mean, LIMIT, exactly()
    )
    assert disc.calls == 2  # supported: a check and no more


def test_a_more_typical_replacement_is_farther_and_likelier():
    disc, (state, command) = Disc(), requests()
    limits = torch.full((len(state),), LIMIT)
    edge, inside, peak = (
        nearest_supported(disc, state, command, limits, exactly(typicality=share))
        for share in (0.0, 0.5, 0.95)
    )
    assert torch.equal(inside.changed, edge.changed)  # the verdict is not stricter
    rows = edge.changed
    for less, more in ((edge, inside), (inside, peak)):
        assert bool((more.score >= less.score - 1e-3)[rows].all())
        assert bool((more.distance >= less.distance - 1e-4)[rows].all())
        assert float((more.score - less.score)[rows].mean()) > 0.1
    assert inside.supported.all() and peak.supported.all()


def test_the_typical_score_is_a_quantile_of_what_is_supported():
    scores = torch.tensor([[-9.0, -1.0, -2.0, -3.0, -4.0], [-9.0, -9.0, -9.0, -9.0, -9.0]])
    limits = torch.tensor([-5.0, -5.0])
    for share, expected in ((0.0, -5.0), (0.4, -3.0), (0.99, -2.0)):
        # where nothing is supported, the verdict's own threshold is the goal
        assert typical_score(scores, limits, share).tolist() == [expected, -5.0]
    assert typical_score(scores[:0], limits[:0], 0.5).tolist() == []


def test_each_row_has_a_limit_of_its_own():
    disc, (state, command) = Disc(), requests()
    limits = torch.where(torch.arange(len(state)) % 2 == 0, -1.0, -0.25)
    found = nearest_supported(disc, state, command, limits, exactly())
    assert torch.equal(found.changed, disc.score(state, command) < limits)
    assert bool((found.score >= limits).all()) and found.supported.all()


def test_the_horizon_weight_decides_what_is_given_up():
    # 5 deviations too long and within the returns of the disc
    disc, state = Disc(), torch.zeros(1, 2)
    request = torch.tensor([[200.0 + 5 * 60, 50.0 + 0.6 * 110]])
    evenly, by_return = (
        projected(
            disc, state, request, LIMIT, exactly(n_candidates=4000, horizon_weight=weight)
        ).command[0]
        for weight in (1.0, 1e-3)
    )
    assert abs(float(by_return[1] - request[0, 1])) < 0.03 * 110  # keeps the return
    assert abs(float(evenly[1] - request[0, 1])) > 0.3 * 110  # gives it up for the horizon
    assert float(evenly[0]) > float(by_return[0])


@pytest.mark.parametrize(
    "settings", [ProjectionSettings(typicality=0.0), exactly(), exactly(n_steps=0)]
)
def test_it_is_never_farther_than_the_nearest_supported_candidate(settings):
    disc, (state, command) = Disc(), requests()
    found = projected(disc, state, command, LIMIT, settings)
    rows = found.changed.nonzero().squeeze(1)
    flat = disc.samples.reshape(-1, 2)
    n = disc.samples.shape[1]
    assert disc.samples.shape == (len(rows), settings.n_candidates, 2)
    supported = disc.score(state[rows].repeat_interleave(n, 0), flat).view(-1, n) > LIMIT + 0.01
    assert bool(supported.any(1).all()) and not supported.all()
    distances = scaled_distance(
        disc.samples,
        command[rows].unsqueeze(1),
        disc.command_standardizer,
        settings.horizon_weight,
    )
    nearest = torch.where(supported, distances, torch.inf).min(dim=1).values
    assert bool((found.distance[rows] <= nearest + 1e-5).all())


@pytest.mark.parametrize("horizon_weight", [1.0, 0.01])
@pytest.mark.parametrize("lr", [1.0, 0.3])
def test_refinement_only_ever_comes_nearer(horizon_weight, lr):
    disc, (state, command) = Disc(), requests()
    distances = [
        projected(
            disc,
            state,
            command,
            LIMIT,
            exactly(n_steps=n, lr=lr, horizon_weight=horizon_weight),
        ).distance
        for n in (0, 1, 2, 3)
    ]
    for before, after in zip(distances, distances[1:], strict=False):
        assert bool((after <= before + 1e-6).all())
    assert float((distances[0] - distances[-1]).max()) > 0.05


def test_the_same_request_gets_the_same_answer():
    state, command = requests()
    torch.manual_seed(1)
    one = projected(Disc(), state, command, LIMIT, exactly())
    torch.manual_seed(2)
    two = projected(Disc(), state, command, LIMIT, exactly())
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    alone = projected(Disc(), state[-1:], command[-1:], LIMIT, exactly())
    torch.testing.assert_close(alone.command[0], one.command[-1])


@pytest.mark.parametrize("n_steps", [0, 3])
@pytest.mark.parametrize("horizon", [0.9, 0.0, -500.0])
def test_no_answer_asks_for_less_than_one_step(n_steps, horizon):
    # the disc reaches from a horizon of -59 to 61
    disc, state = Disc(mean=(1.0, 50.0)), torch.zeros(1, 2)
    request = torch.tensor([[horizon, 400.0]])
    found = projected(disc, state, request, LIMIT, exactly(n_steps=n_steps))
    assert found.changed.all() and found.supported.all()
    assert float(found.command[0, 0]) >= 1.0


def test_where_nothing_is_supported_the_best_sample_comes_back_and_says_so():
    disc, (state, command) = Disc(), requests()
    found = projected(disc, state, command, 0.5, exactly(n_steps=0))  # scores end at 0
    assert found.changed.all() and not found.supported.any()
    assert bool((found.score < 0.5).all())
    n = disc.samples.shape[1]
    best = (
        disc.score(state.repeat_interleave(n, 0), disc.samples.reshape(-1, 2))
        .view(-1, n)
        .max(dim=1)
        .values
    )
    torch.testing.assert_close(found.score, best)


@pytest.mark.parametrize("n_steps", [0, 2])
def test_what_few_samples_miss_more_of_them_find(n_steps):
    disc, (state, command) = Disc(reach=20.0), requests()  # a sample in 400 is supported
    assert not bool((disc.scores(state, disc.scored_samples(state, 64)[0]) >= LIMIT).any())
    found = projected(disc, state, command, LIMIT, exactly(n_steps=n_steps))
    assert found.supported.all() and bool((found.score >= LIMIT).all())
    again = projected(disc, state, found.command, LIMIT, exactly(n_steps=n_steps))
    assert torch.equal(again.command, found.command) and not again.changed.any()


@pytest.mark.parametrize("n_steps", [0, 2])
def test_what_cannot_be_supported_does_not_move_twice(n_steps):
    disc, (state, command) = Disc(), requests()
    found = projected(disc, state, command, 0.5, exactly(n_steps=n_steps))
    again = projected(disc, state[3:], found.command[3:], 0.5, exactly(n_steps=n_steps))
    assert torch.equal(again.command, found.command[3:])
    assert not (again.changed | again.supported).any() and bool((again.distance == 0).all())


def test_requests_that_are_not_finite_are_refused():
    state, command = requests(3)
    command[1, 0] = math.nan
    with pytest.raises(DataError, match=r"command: expected finite numbers, got 1.*\[1, 0\]"):
        projected(Disc(), state, command, LIMIT, exactly())
    state, command = requests(3)
    state[2, 1] = math.inf
    with pytest.raises(DataError, match=r"state: expected finite numbers, got 1.*\[2, 1\]"):
        projected(Disc(), state, command, LIMIT, exactly())


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("n_steps", [0, 2])
def test_shields_keep_what_is_supported_and_recheck_what_is_not(name, n_steps):
    shield, states, commands = random_shield(name)
    found = shield.project_in_detail(states, commands, n_steps)
    flagged = shield.is_ood(states, commands)
    assert torch.equal(found.changed, flagged) and 5 < int(flagged.sum()) < 30
    assert torch.equal(found.command[~flagged], commands[~flagged])
    assert torch.equal(shield.project(states, commands, n_steps), found.command)
    assert bool((found.command[flagged, 0] >= 1).all())
    # supported also when asked one by one, where the last bits of a score differ
    alone = torch.cat(
        [shield.is_ood(states[i : i + 1], found.command[i : i + 1]) for i in range(len(states))]
    )
    assert torch.equal(alone[found.changed], ~found.supported[found.changed])
    assert float(found.supported.float().mean()) > 0.9
    again = shield.project_in_detail(states, found.command, n_steps)
    kept = found.supported
    assert torch.equal(again.command[kept], found.command[kept])
    assert not again.changed[kept].any()


@pytest.mark.parametrize("name", SMALL)
def test_a_looser_threshold_flags_less_and_moves_less(name):
    shield, states, commands = random_shield(name)
    shield.projection = exactly(n_candidates=256)
    strict = shield.project_in_detail(states, commands)
    shield.calibration = shield.calibration.at(0.01)
    loose = shield.project_in_detail(states, commands)
    assert bool((loose.changed <= strict.changed).all())
    both = strict.supported & loose.supported
    assert float(loose.distance[both].sum()) < float(strict.distance[both].sum())


@pytest.mark.parametrize(
    ("asked", "words"),
    [({"lr": 0.0}, "0 < lr <= 1"), ({"lr": 1.5}, "0 < lr <= 1"), ({"n_steps": -1}, "n_steps >= 0")],
)
def test_settings_out_of_range_are_refused(asked, words):
    shield, states, commands = random_shield("quantile")
    with pytest.raises(ConfigError, match=words):
        shield.project(states, commands, **asked)
    shield.projection = ProjectionSettings(typicality=1.5)
    with pytest.raises(ConfigError, match="typicality < 1"):
        shield.project(states, commands)
    for name, bad in (("n_candidates", 0), ("horizon_weight", -0.1)):
        shield.projection = ProjectionSettings()._replace(**{name: bad})
        with pytest.raises(ConfigError, match=f"{name} >= .*{name}={bad}"):
            shield.project(states, commands)


def test_wrong_shapes_are_refused():
    shield, states, commands = random_shield("quantile")
    with pytest.raises(ShapeError, match=r"state: expected shape \[batch, 3\], got \[3\]"):
        shield.project(states[0], commands)
    with pytest.raises(ShapeError, match="command: expected 30 rows like the other, got 1"):
        shield.project(states, commands[:1])


def test_typicality_keeps_away_from_the_edge():
    shield, states, commands = random_shield("quantile")
    shield.projection = ProjectionSettings(typicality=0.6, n_candidates=256)
    found = shield.project_in_detail(states, commands)
    assert torch.equal(found.changed, shield.is_ood(states, commands))
    assert bool((found.score >= shield.goals(states))[found.changed].all())
    # of what is supported at a state, so large a share is less typical than what came back
    scores, limits = shield.scored_samples(states, 256)[1], shield.limits(states).unsqueeze(1)
    less = (scores >= limits) & (scores < found.score.unsqueeze(1))
    share = less.double().sum(1) / (scores >= limits).double().sum(1)
    assert bool((share >= 0.59)[found.changed].all())
    assert shield.goals(states[:0]).shape == (0,)
    shield.projection = ProjectionSettings(typicality=0.0)
    assert torch.equal(shield.goals(states), shield.limits(states))

import numpy as np
import pytest
import torch

from flowshield.data import Episode
from flowshield.errors import DataError, FileFormatError, ShapeError
from flowshield.models import OutcomeModel, UDRLAgent
from flowshield.models.outcome import (
    LEAST_VALIDATION,
    Outcome,
    OutcomeRows,
    outcome_rows,
    weights_checksum,
)

SMALL = {"n_members": 3, "hidden_dim": 32}


def drawn(law, n, seed, scale=1.0):
    """Episodes of one step: a state, a command (20, R), and what the law makes of them."""
    rng = np.random.default_rng(seed)
    s, asked = rng.uniform(size=n), rng.uniform(0.0, 10.0, size=n)
    returns, steps, failed = law(s, asked, rng)
    columns = (scale * s[:, None], np.stack([np.full(n, 20.0), scale * asked], 1), scale * returns)
    states, commands, got = (torch.tensor(c, dtype=torch.float32) for c in columns)
    return OutcomeRows(
        states,
        commands,
        got,
        torch.tensor(steps, dtype=torch.float32),
        torch.tensor(failed),
        torch.arange(n),
    )


def noisy(s, asked, rng):
    """G = 0.8 R + N(0, (0.5 + s)^2), in 10 to 30 steps."""
    returns = 0.8 * asked + (0.5 + s) * rng.normal(size=len(s))
    return returns, rng.uniform(10.0, 30.0, size=len(s)), np.zeros(len(s), dtype=bool)


def failing(s, asked, rng):
    """Fails with probability s, at once and with return 0; else it gets R in 20 steps."""
    failed = rng.uniform(size=len(s)) < s
    return np.where(failed, 0.0, asked), np.where(failed, 1.0, 20.0), failed


def fitted(law, n=3000, n_steps=500, seed=0, scale=1.0, **options):
    model = OutcomeModel(1, **{**SMALL, **options})
    rows, held = drawn(law, n, 1, scale), drawn(law, 400, 2, scale)
    return model.fit(rows, held, n_steps=n_steps, seed=seed)


@pytest.fixture(scope="module")
def noisy_model():
    return fitted(noisy, n_steps=800)


@pytest.fixture(scope="module")
def failing_model():
    return fitted(failing, n_steps=800)


@pytest.fixture(scope="module")
def quick_model():
    return fitted(noisy, n=200, n_steps=30)


def grid(m=5):
    s, asked = (
        x.flatten() for x in torch.meshgrid(*2 * [torch.linspace(0.1, 0.9, m)], indexing="ij")
    )
    return s.unsqueeze(1), torch.stack([torch.full_like(asked, 20.0), 10 * asked], dim=1)


def test_half_of_what_is_learnt_from_are_starts():
    """Failure, here, says whether a row is a start: a tenth are, and half of the batches more."""

    def rows(n, seed):
        drawn_rows = drawn(noisy, 10 * n, seed)
        place = torch.arange(10 * n)
        return drawn_rows._replace(failed=place % 10 == 0, episodes=place // 10)

    model = OutcomeModel(1, **SMALL).fit(rows(300, 1), rows(60, 2), n_steps=200)
    state, command = grid()
    assert float(model.predict(state, command).failure.mean()) == pytest.approx(0.55, abs=0.05)


def test_quantiles_of_a_known_law_are_recovered(noisy_model):
    state, command = grid()
    found = noisy_model.law(state, command.unsqueeze(1)).returns.mean(0).squeeze(1)
    deviation = 0.5 + state
    z = torch.distributions.Normal(0.0, 1.0).icdf(noisy_model.levels)
    expected = 0.8 * command[:, 1:] + deviation * z
    assert ((found - expected).abs() / deviation).mean() < 0.15
    width = found[:, -2] - found[:, 1]
    assert torch.allclose(width / width.mean(), deviation[:, 0] / deviation.mean(), atol=0.25)


def test_means_of_return_and_steps_are_recovered(noisy_model):
    state, command = grid()
    told = noisy_model.predict(state, command)
    assert (told.mean - 0.8 * command[:, 1]).abs().max() < 0.4
    assert (told.steps - 20.0).abs().max() < 1.5
    assert (told.failure < 0.02).all()


def test_a_mixture_of_failure_and_success_is_recovered(failing_model):
    state, command = grid()
    told, p = failing_model.predict(state, command), state[:, 0]
    assert (told.failure - p).abs().mean() < 0.05
    assert (told.mean - (1 - p) * command[:, 1]).abs().mean() < 0.4
    assert (told.steps - (p + 20 * (1 - p))).abs().mean() < 1.0
    # a request of 9 at a state that fails in 10%: the lowest quantiles are failures, the rest not
    law = failing_model.law(torch.tensor([[0.3]]), torch.tensor([[[20.0, 9.0]]])).returns.mean(0)
    assert law[0, 0, :2].max() < 2.0 and law[0, 0, -8:].min() > 7.5


@pytest.mark.parametrize("law", [noisy, failing])
def test_the_interval_holds_of_fresh_episodes(law, noisy_model, failing_model):
    model = noisy_model if law is noisy else failing_model
    rows = drawn(law, 3000, 3)
    told = model.predict(rows.states, rows.commands)
    inside = (told.low <= rows.returns) & (rows.returns <= told.high)
    assert 0.86 < inside.double().mean() < (0.95 if law is noisy else 1.0)


def test_an_interval_of_a_model_that_learnt_nothing_holds_too():
    rows = drawn(noisy, 3000, 3)
    told = fitted(noisy, n=60, n_steps=1).predict(rows.states, rows.commands)
    inside = (told.low <= rows.returns) & (rows.returns <= told.high)
    assert 0.86 < inside.double().mean() < 0.95


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_predictions_are_in_the_unit_of_the_data(scale):
    models = [fitted(noisy, n=300, n_steps=40, scale=unit) for unit in (1.0, scale)]
    state, command = grid(3)
    raw = command * torch.tensor([1.0, scale])
    told = models[0].predict(state, command)
    scaled = models[1].predict(scale * state, raw)
    for name in ("mean", "spread", "low", "high"):
        ours, theirs = getattr(told, name) * scale, getattr(scaled, name)
        assert torch.allclose(ours, theirs, rtol=0.02, atol=0.02 * scale), name
    assert torch.allclose(told.steps, scaled.steps, rtol=0.02)


def test_quantiles_rise_and_ends_are_in_order(quick_model):
    state, command = grid()
    law = quick_model.law(100 * state, 100 * command.unsqueeze(1))  # far from the data, too
    assert (law.returns.diff(dim=-1) >= 0).all() and (law.steps.diff(dim=-1) >= 0).all()
    told = quick_model.predict(state, command)
    assert (told.low <= told.high).all() and (told.spread >= 0).all()
    assert ((0 <= told.failure) & (told.failure <= 1)).all()


def test_candidates_may_stand_in_any_order(quick_model):
    state, commands = torch.rand(4, 1), 10 * torch.rand(4, 6, 2)
    order = torch.tensor([3, 5, 0, 1, 4, 2])
    for ours, theirs in zip(
        quick_model.law(state, commands), quick_model.law(state, commands[:, order]), strict=True
    ):
        assert torch.allclose(ours[:, :, order], theirs, atol=1e-5)
    each = [quick_model.predict(state, commands[:, k]) for k in range(6)]
    for several, one in zip(
        quick_model.predict(state, commands), zip(*each, strict=True), strict=True
    ):
        assert torch.allclose(several, torch.stack(one, dim=1), atol=1e-5)


def test_a_seed_gives_the_same_bits_and_another_others():
    first, again, other = (fitted(noisy, 200, 20, seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["weights.0"], other["weights.0"])


def test_torchs_own_generator_is_left_alone():
    before = torch.get_rng_state()
    model = fitted(noisy, 100, 10)
    model.predict(*grid())
    assert torch.equal(torch.get_rng_state(), before)


def test_members_are_trained_on_other_episodes():
    """Of two kinds of episodes a member that drew more of one kind predicts more like it."""
    rows = drawn(noisy, 8, 0)._replace(
        states=torch.zeros(8, 1),
        commands=torch.full((8, 2), 5.0),
        returns=torch.tensor([0.0, 10.0]).repeat_interleave(4),
        episodes=torch.tensor([0, 1]).repeat_interleave(4),
    )
    held = drawn(noisy, 30, 1)._replace(
        states=torch.zeros(30, 1), commands=torch.full((30, 2), 5.0)
    )
    held = held._replace(returns=torch.tensor([0.0, 10.0]).repeat(15))
    model = OutcomeModel(1, n_members=8, hidden_dim=8).fit(rows, held, n_steps=200, batch_size=32)
    means = model.law(torch.zeros(1, 1), torch.full((1, 1, 2), 5.0)).returns.mean(dim=(1, 2, 3))
    # drawn by rows, every member would see both kinds about equally often
    assert (means < 2.0).any() and (means > 8.0).any()


def test_one_member_has_no_spread():
    model = fitted(noisy, 100, 10, n_members=1)
    assert (model.predict(*grid()).spread == 0).all()


def test_an_environment_without_failures_has_none_predicted():
    model = fitted(noisy, 100, 10, knows_failure=False)
    assert model.predict(*grid()).failure.isnan().all()


def test_a_file_gives_the_same_bits(tmp_path, failing_model):
    path = tmp_path / "outcome.pt"
    failing_model.policy_checksum = failing_model.hyperparameters["policy_checksum"] = "abc"
    failing_model.save(path)
    loaded = OutcomeModel.load(path)
    assert loaded.policy_checksum == "abc" and loaded.knows_failure
    for ours, theirs in zip(failing_model.predict(*grid()), loaded.predict(*grid()), strict=True):
        assert torch.equal(ours, theirs)
    assert weights_checksum(loaded) == weights_checksum(failing_model)


def test_files_of_other_kinds_and_versions_are_refused(tmp_path, quick_model):
    path = tmp_path / "outcome.pt"
    quick_model.save(path)
    payload = torch.load(path, weights_only=True)
    torch.save({**payload, "format_version": 99}, path)
    with pytest.raises(FileFormatError, match="99"):
        OutcomeModel.load(path)
    quick_model.save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(FileFormatError, match="outcome.pt"):
        OutcomeModel.load(path)
    UDRLAgent(1, 1, hidden_dim=4, n_layers=1).save(path)
    with pytest.raises(FileFormatError, match="outcome"):
        OutcomeModel.load(path)
    with pytest.raises(FileNotFoundError):
        OutcomeModel.load(tmp_path / "nowhere.pt")


def test_weights_of_another_size_are_refused(tmp_path, quick_model):
    path = tmp_path / "outcome.pt"
    quick_model.save(path)
    payload = torch.load(path, weights_only=True)
    payload["hyperparameters"]["hidden_dim"] = 7
    torch.save(payload, path)
    with pytest.raises(FileFormatError, match="outcome.pt"):
        OutcomeModel.load(path)


def lived(length, seed=0):
    rng = np.random.default_rng(seed)
    return Episode(
        states=rng.normal(size=(length, 2)).astype(np.float32),
        final_state=np.zeros(2, np.float32),
        actions=np.zeros((length, 1), np.float32),
        rewards=rng.normal(size=length),
        terminated=True,
        truncated=False,
    )


def test_rows_are_what_was_left_and_what_came():
    episodes, commands = [lived(30), lived(3, 1)], [(10.0, 5.0), (50.0, -2.0)]
    rows = outcome_rows(episodes, commands, [False, True], n_rows=8, seed=4)
    assert rows.episodes.tolist() == [0] * 8 + [1] * 3
    assert rows.failed.tolist() == [False] * 8 + [True] * 3
    for k, (episode, command) in enumerate(zip(episodes, commands, strict=True)):
        mine = rows.episodes == k
        at = episode.length - rows.steps[mine].long().numpy()
        assert at[0] == 0 and (np.diff(at) > 0).all()  # the first step of each, none twice
        assert np.array_equal(rows.states[mine].numpy(), episode.states[at])
        gained = np.array([episode.rewards[:t].sum() for t in at])
        left = np.stack([np.maximum(command[0] - at, 1.0), command[1] - gained], axis=1)
        assert np.allclose(rows.commands[mine].numpy(), left, atol=1e-5)
        assert np.allclose(rows.returns[mine].numpy(), episode.rewards.sum() - gained, atol=1e-5)
    again = outcome_rows(episodes, commands, [False, True], n_rows=8, seed=4)
    assert all(torch.equal(a, b) for a, b in zip(rows, again, strict=True))
    first = outcome_rows(episodes, commands, [False, True], n_rows=1)
    assert first.steps.tolist() == [30, 3] and first.commands.tolist() == [[10, 5], [50, -2]]


def test_the_rollouts_of_any_callable_do():
    """A policy that is a plain function, rolled out by hand: it adds half of what is asked."""

    def policy(state, command):
        return 0.5 * command[1] / 4

    rng, episodes, commands = np.random.default_rng(0), [], []
    for _ in range(150):
        asked, rewards = rng.uniform(0.0, 10.0), []
        left = asked
        for step in range(4):
            rewards.append(policy(None, (4 - step, asked)))
            left -= rewards[-1]
        episode = lived(4)
        episodes.append(
            Episode(
                states=np.zeros((4, 1), np.float32) + np.arange(4, dtype=np.float32)[:, None],
                final_state=np.zeros(1, np.float32),
                actions=episode.actions,
                rewards=np.array(rewards),
                terminated=True,
                truncated=False,
            )
        )
        commands.append((4.0, asked))
    assert weights_checksum(policy) is None
    rows = outcome_rows(episodes, commands, [False] * 150)
    part = rows.episodes < 100
    fit, held = (OutcomeRows(*(column[rows_] for column in rows)) for rows_ in (part, ~part))
    model = OutcomeModel(1, **SMALL, knows_failure=False).fit(fit, held, n_steps=300)
    told = model.predict(torch.zeros(3, 1), torch.tensor([[4.0, 2.0], [4.0, 5.0], [4.0, 8.0]]))
    assert torch.allclose(told.mean, torch.tensor([1.0, 2.5, 4.0]), atol=0.3)


def test_a_checksum_is_of_weights_and_buffers():
    agents = [UDRLAgent(2, 1, hidden_dim=4, n_layers=1) for _ in range(2)]
    agents[1].load_state_dict(agents[0].state_dict())
    assert weights_checksum(agents[0]) == weights_checksum(agents[1])
    name, buffer = next(iter(agents[1].named_buffers()))
    buffer.add_(1e-3)
    assert weights_checksum(agents[0]) != weights_checksum(agents[1]), name
    assert weights_checksum(object()) is None


def test_what_cannot_be_fitted_is_refused():
    rows, model = drawn(noisy, 50, 0), OutcomeModel(1, **SMALL)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(DataError, match=f"validation: expected at least {LEAST_VALIDATION} epis"):
        model.fit(rows, drawn(noisy, LEAST_VALIDATION - 1, 1))
    with pytest.raises(DataError, match="rows: expected at least 2 episodes, got 1: probe more"):
        model.fit(rows._replace(episodes=torch.zeros(50, dtype=torch.long)), rows)
    for column in ("states", "commands", "returns", "steps"):
        bad = getattr(rows, column).clone()
        bad[3] = torch.nan
        with pytest.raises(DataError, match="rows: expected finite numbers, got"):
            model.fit(rows._replace(**{column: bad}), rows)
    with pytest.raises(ShapeError, match=r"rows: expected states \[n, 1\]"):
        model.fit(rows._replace(states=torch.zeros(50, 2)), rows)
    with pytest.raises(ShapeError, match="validation: expected"):
        model.fit(rows, rows._replace(returns=torch.zeros(49)))
    after = model.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)  # it was left as it was


def test_shapes_that_do_not_fit_are_refused(quick_model):
    for state, command in (
        (torch.zeros(3, 2), torch.zeros(3, 2)),
        (torch.zeros(3, 1), torch.zeros(2, 2)),
        (torch.zeros(3, 1), torch.zeros(3, 3)),
        (torch.zeros(3, 1), torch.zeros(3, 4, 3)),
    ):
        with pytest.raises(ShapeError, match=r"expected states \[batch, 1\] and commands"):
            quick_model.predict(state, command)


def test_rollouts_that_do_not_fit_are_refused():
    with pytest.raises(ShapeError, match="each of 1 episodes, got 2 and 1"):
        outcome_rows([lived(3)], [(1.0, 1.0)] * 2, [False])
    with pytest.raises(DataError, match="at least one episode, got none"):
        outcome_rows([], [], [])


def test_a_prediction_for_nobody_is_empty(quick_model):
    told = quick_model.predict(torch.zeros(0, 1), torch.zeros(0, 2))
    assert isinstance(told, Outcome) and told.mean.shape == (0,)

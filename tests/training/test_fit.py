"""The fit loop on models whose answer is known."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from flowshield.errors import ConfigError, DataError
from flowshield.models.serialization import load_payload
from flowshield.training import FitSettings, fit
from flowshield.training.fit import describe_rows
from flowshield.training.learning_rate import SCHEDULES, LearningRateScheduler

WEIGHT, BIAS = torch.tensor([[2.0, -1.0]]), 0.5
SETTINGS = FitSettings(
    n_epochs=6, batch_size=16, learning_rate=0.02, seed=3, patience=100, ema_decay=None
)
SCHEDULE = {"warmup_epochs": 1.5, "final_factor": 0.1, "step_epochs": 2, "patience": 0}


class Table:
    """Rows that remember which were asked for."""

    def __init__(self, n, seed=0):
        generator = torch.Generator().manual_seed(seed)
        self.x = torch.randn(n, 2, generator=generator)
        self.y = self.x @ WEIGHT.T + BIAS
        self.asked = []

    def __len__(self):
        return len(self.x)

    def batch(self, indices):
        self.asked.append(indices.tolist())
        return self.x[indices], self.y[indices]


class Line(nn.Module):
    """Linear regression; with noise, its loss draws random numbers and drops inputs out."""

    def __init__(self, noise=0.0, seed=0):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.linear = nn.Linear(2, 1)
        self.noise, self.dropout = noise, nn.Dropout(noise)
        self.hyperparameters = {"noise": noise}

    def compute_loss(self, x, y):
        x = self.dropout(x + self.noise * torch.randn_like(x))
        return (self.linear(x) - y).square().mean()

    def validation_loss(self, x, y):
        return self.compute_loss(x, y)


class Scripted(Line):
    """Its validation losses are given, one an epoch."""

    def __init__(self, losses):
        super().__init__()
        self.losses = list(losses)

    def validation_loss(self, x, y):
        return torch.tensor(self.losses.pop(0))


class Breaking(Line):
    """Its training loss is NaN after some steps."""

    def __init__(self, good_steps):
        super().__init__()
        self.left = good_steps

    def compute_loss(self, x, y):
        if self.training:
            self.left -= 1
        return super().compute_loss(x, y) * (float("nan") if self.left < 0 else 1.0)


class Killed(Exception):
    pass


def kill_at(epoch):
    def on_epoch(record):
        if record["epoch"] == epoch:
            raise Killed

    return on_epoch


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_equal(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name


def untimed(history):
    return [{k: v for k, v in record.items() if k != "seconds"} for record in history]


@pytest.mark.parametrize("ema_decay", [None, 0.9])
def test_reaches_the_known_optimum(ema_decay):
    model = Line()
    settings = replace(
        SETTINGS, n_epochs=60, learning_rate=0.05, weight_decay=0.0, ema_decay=ema_decay
    )
    result = fit(model, Table(256), Table(64, seed=1), settings)
    torch.testing.assert_close(model.linear.weight.detach(), WEIGHT, atol=2e-3, rtol=0)
    torch.testing.assert_close(model.linear.bias.detach(), torch.tensor([BIAS]), atol=2e-3, rtol=0)
    assert result.validation_loss < 1e-5
    assert result.history[-1]["train_loss"] < 1e-4 * result.history[0]["train_loss"]


# ---------------------------------------------------------------- exact resume


@pytest.mark.parametrize("ema_decay", [None, 0.8])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_resumed_fit_ends_as_an_unbroken_one(tmp_path, schedule, ema_decay):
    settings = replace(
        SETTINGS,
        n_epochs=7,
        scheduler={"type": schedule, **SCHEDULE},
        ema_decay=ema_decay,
        checkpoint_every=2,
    )
    train, validation = Table(100), Table(40, seed=1)
    whole, broken = Line(noise=0.3), Line(noise=0.3, seed=9)
    expected = fit(whole, train, validation, settings, checkpoint_dir=tmp_path / "whole")

    with pytest.raises(Killed):
        folder = tmp_path / "broken"
        fit(
            Line(noise=0.3), train, validation, settings, checkpoint_dir=folder, on_epoch=kill_at(5)
        )
    assert load_payload(folder / "last.pt", "fit")["epoch"] == 4
    torch.rand(7)  # the world has moved on
    told = []
    found = fit(
        broken,
        train,
        validation,
        settings,
        checkpoint_dir=folder,
        resume=True,
        on_epoch=told.append,
    )

    assert_equal(state(broken), state(whole))
    assert untimed(found.history) == untimed(expected.history)
    assert (found.best_epoch, found.validation_loss) == (
        expected.best_epoch,
        expected.validation_loss,
    )
    assert [record["epoch"] for record in told] == [1, 2, 3, 4, 5, 6, 7]
    last, expected_last = (
        load_payload(tmp_path / name / "last.pt", "fit") for name in ("broken", "whole")
    )
    assert_equal(last["model"], expected_last["model"])
    assert_equal(last["judged"], expected_last["judged"])


def test_early_stopping_and_plateau_go_on_from_where_they_were(tmp_path):
    losses = [5.0, 4.0, 4.0, 4.0, 4.0, 4.0]
    plateau = {"type": "plateau", "patience": 0, "step_factor": 0.5}
    settings = replace(SETTINGS, n_epochs=20, patience=3, checkpoint_every=1, scheduler=plateau)
    expected = fit(Scripted(losses), Table(40), Table(8), settings)
    with pytest.raises(Killed):
        fit(
            Scripted(losses),
            Table(40),
            Table(8),
            settings,
            checkpoint_dir=tmp_path,
            on_epoch=kill_at(4),
        )
    arguments = {"checkpoint_dir": tmp_path, "resume": True}
    found = fit(Scripted(losses[3:]), Table(40), Table(8), settings, **arguments)
    assert untimed(found.history) == untimed(expected.history)
    assert found.stopped_early and len(found.history) == 5
    rates = [record["learning_rate"] / 0.02 for record in found.history]
    assert rates == pytest.approx([1.0, 1.0, 0.5, 0.25, 0.125])
    again = fit(Scripted([]), Table(40), Table(8), settings, **arguments)  # no epoch is left to do
    assert again == found


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("learning_rate", {"learning_rate": 0.5}),
        ("batch_size", {"batch_size": 8}),
        ("n_epochs", {"n_epochs": 9}),
        ("seed", {"seed": 4}),
        ("ema_decay", {"ema_decay": 0.5}),
        ("gradient_clip", {"gradient_clip": None}),
        ("scheduler.type", {"scheduler": {"type": "linear"}}),
        ("scheduler.final_factor", {"scheduler": {"type": "cosine", "final_factor": 0.5}}),
    ],
)
def test_resuming_with_other_settings_names_the_key(tmp_path, key, change):
    fit(Line(), Table(40), Table(8), SETTINGS, checkpoint_dir=tmp_path)
    before = (tmp_path / "last.pt").read_bytes()
    with pytest.raises(ConfigError, match=f"last.pt was written with {key}="):
        fit(
            Line(),
            Table(40),
            Table(8),
            replace(SETTINGS, **change),
            checkpoint_dir=tmp_path,
            resume=True,
        )
    assert (tmp_path / "last.pt").read_bytes() == before


@pytest.mark.parametrize(
    ("key", "train", "validation", "model"),
    [
        ("training rows.number", Table(41), Table(8), Line()),
        ("training rows.checksum", Table(40, seed=1), Table(8), Line()),
        ("validation rows.checksum", Table(40), Table(8, seed=1), Line()),
        ("model.noise", Table(40), Table(8), Line(noise=0.1)),
    ],
)
def test_resuming_with_other_data_or_model_names_what_differs(
    tmp_path, key, train, validation, model
):
    fit(Line(), Table(40), Table(8), SETTINGS, checkpoint_dir=tmp_path)
    with pytest.raises(ConfigError, match=key):
        fit(model, train, validation, SETTINGS, checkpoint_dir=tmp_path, resume=True)


def test_how_often_checkpoints_are_written_may_change(tmp_path):
    expected = fit(Line(), Table(40), Table(8), SETTINGS, checkpoint_dir=tmp_path)
    settings = replace(SETTINGS, checkpoint_every=1)
    found = fit(Line(), Table(40), Table(8), settings, checkpoint_dir=tmp_path, resume=True)
    assert found == expected


def test_without_resume_old_checkpoints_are_overwritten(tmp_path):
    fit(Line(), Table(40), Table(8), SETTINGS, checkpoint_dir=tmp_path)
    settings = replace(SETTINGS, n_epochs=2, seed=8)
    model = Line()
    result = fit(model, Table(40), Table(8), settings, checkpoint_dir=tmp_path)
    assert [record["epoch"] for record in result.history] == [1, 2]
    assert load_payload(tmp_path / "last.pt", "fit")["epoch"] == 2
    assert_equal(load_payload(tmp_path / "best.pt", "weights")["state_dict"], state(model))


# ---------------------------------------------------------------- files and the best epoch


def test_last_is_written_every_few_epochs_and_at_the_end(tmp_path):
    seen = []

    def on_epoch(record):  # called before this epoch's files are written
        path = tmp_path / "last.pt"
        seen.append(load_payload(path, "fit")["epoch"] if path.exists() else 0)

    settings = replace(SETTINGS, n_epochs=7, checkpoint_every=3)
    fit(Line(), Table(40), Table(8), settings, checkpoint_dir=tmp_path, on_epoch=on_epoch)
    assert seen == [0, 0, 0, 3, 3, 3, 6]
    assert load_payload(tmp_path / "last.pt", "fit")["epoch"] == 7


def test_the_best_weights_are_returned_and_saved_not_the_last(tmp_path):
    model = Scripted([3.0, 1.0, 2.0, 0.9, 1.5, 0.95])
    weights = []
    result = fit(
        model,
        Table(40),
        Table(8),
        SETTINGS,
        checkpoint_dir=tmp_path,
        on_epoch=lambda record: weights.append(state(model)),
    )
    assert (result.best_epoch, result.validation_loss) == (4, pytest.approx(0.9))
    assert_equal(state(model), weights[3])
    assert not torch.equal(weights[3]["linear.weight"], weights[-1]["linear.weight"])
    assert_equal(load_payload(tmp_path / "best.pt", "weights")["state_dict"], weights[3])
    assert_equal(load_payload(tmp_path / "last.pt", "fit")["model"], weights[-1])
    assert not model.training


def test_what_is_judged_and_kept_is_the_moving_average(tmp_path):
    """One step an epoch, so that the average of the epochs' weights is the average itself."""
    model = Line()
    trained = [state(model)]
    settings = replace(SETTINGS, batch_size=40, ema_decay=0.7)
    result = fit(
        model,
        Table(40),
        Table(8),
        settings,
        checkpoint_dir=tmp_path,
        on_epoch=lambda record: trained.append(state(model)),
    )
    average = trained[0]
    for weights in trained[1 : result.best_epoch + 1]:
        average = {name: 0.7 * average[name] + 0.3 * weights[name] for name in weights}
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, average[name])
    assert result.best_epoch == 6  # an average this slow still improves


@pytest.mark.parametrize("ema_decay", [None, 0.5])
def test_a_loss_of_nan_raises_and_leaves_the_best_weights_so_far(tmp_path, ema_decay):
    settings = replace(SETTINGS, batch_size=20, ema_decay=ema_decay)
    good = Line()  # the same fit, ended after the third epoch
    with pytest.raises(Killed):
        fit(
            good,
            Table(40),
            Table(8),
            settings,
            checkpoint_dir=tmp_path / "good",
            on_epoch=kill_at(4),
        )
    broken = Breaking(good_steps=7)
    with pytest.raises(DataError, match="no longer finite in epoch 4 .* weights of epoch 3"):
        fit(broken, Table(40), Table(8), settings, checkpoint_dir=tmp_path / "broken")
    best = load_payload(tmp_path / "good" / "best.pt", "weights")["state_dict"]
    assert_equal(state(broken), best)
    assert_equal(load_payload(tmp_path / "broken" / "best.pt", "weights")["state_dict"], best)


class Steep(Line):
    """From some step on its gradient is NaN where its loss is still a number."""

    def __init__(self, good_steps):
        super().__init__()
        self.left = good_steps

    def compute_loss(self, x, y):
        loss = super().compute_loss(x, y)
        self.left -= self.training
        nothing = loss - loss.detach()
        return loss + nothing.abs().sqrt() if self.left < 0 else loss


@pytest.mark.parametrize(
    ("model", "what"), [(Breaking, "the training loss"), (Steep, "the gradient")]
)
@pytest.mark.parametrize("good_steps", [5, 7])
def test_what_is_no_number_first_is_named_with_its_step_and_the_last_good_checkpoint(
    tmp_path, model, what, good_steps
):
    settings = replace(SETTINGS, batch_size=10, checkpoint_every=1)
    epoch, step = good_steps // 4, good_steps % 4 + 1
    last = tmp_path / "last.pt"
    with pytest.raises(DataError) as caught:
        fit(model(good_steps), Table(40), Table(8), settings, checkpoint_dir=tmp_path)
    message = str(caught.value)
    assert message.startswith(
        f"{what} is no longer finite in epoch {epoch + 1} at step {step} of 4"
    )
    assert f"the last good checkpoint is {last} of epoch {epoch}" in message
    assert load_payload(last, "fit")["epoch"] == epoch


def test_a_gradient_that_overflows_is_no_silent_standstill():
    """Clipped by an infinite norm it is 0: without a word the weights would stay where they are."""

    class Huge(Line):
        def compute_loss(self, x, y):
            return super().compute_loss(x, y) * 1e30

    settings = replace(SETTINGS, gradient_clip=1.0)
    with pytest.raises(DataError, match="the gradient is no longer finite in epoch 1 at step 1"):
        fit(Huge(), Table(40), Table(8), settings)


def test_early_stopping_stops():
    settings = replace(SETTINGS, n_epochs=50, patience=3)
    result = fit(Scripted([2.0, 1.0] + 48 * [1.0]), Table(40), Table(8), settings)
    assert result.stopped_early and len(result.history) == 5 and result.best_epoch == 2
    assert not fit(Line(), Table(40), Table(8), SETTINGS).stopped_early


# ---------------------------------------------------------------- randomness


def test_the_users_random_state_is_untouched():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(20)
        before = torch.get_rng_state()
        fit(Line(noise=0.5), Table(40), Table(8), SETTINGS)
        assert torch.equal(torch.get_rng_state(), before)
        with pytest.raises(DataError):
            fit(Breaking(3), Table(40), Table(8), SETTINGS)
        assert torch.equal(torch.get_rng_state(), before)


def test_the_seed_alone_decides_the_weights():
    models = [Line(noise=0.3) for _ in range(3)]
    for model, seed in zip(models, (3, 3, 4), strict=True):
        torch.rand(5)
        fit(model, Table(40), Table(8), replace(SETTINGS, seed=seed))
    assert_equal(state(models[0]), state(models[1]))
    assert not torch.equal(models[0].linear.weight, models[2].linear.weight)


def test_validation_does_not_influence_training(tmp_path):
    """Neither its rows nor how many random numbers they draw, as long as no one looks at it."""
    histories = []
    for name, rows in (("a", Table(8)), ("b", Table(333, seed=5))):
        result = fit(Line(noise=0.3), Table(40), rows, SETTINGS, checkpoint_dir=tmp_path / name)
        histories.append([record["train_loss"] for record in result.history])
    a, b = (load_payload(tmp_path / name / "last.pt", "fit")["model"] for name in "ab")
    assert_equal(a, b)
    assert histories[0] == histories[1]


def test_epochs_are_judged_with_the_same_noise():
    """Weights that stand still have a validation loss that stands still."""
    settings = replace(SETTINGS, learning_rate=1e-30)
    history = fit(Line(noise=0.5), Table(40), Table(8), settings).history
    assert len({record["validation_loss"] for record in history}) == 1
    assert len({record["train_loss"] for record in history}) == SETTINGS.n_epochs


def test_the_rate_follows_its_schedule_step_by_step(monkeypatch):
    asked = []
    step = LearningRateScheduler.step

    def spy(scheduler, epoch, val_loss=None):
        asked.append((epoch, val_loss))
        step(scheduler, epoch, val_loss)

    monkeypatch.setattr(LearningRateScheduler, "step", spy)
    fit(Scripted([7.0, 6.0]), Table(64), Table(8), replace(SETTINGS, n_epochs=2))
    quarters = [(0.0, None), (0.25, None), (0.5, None), (0.75, None)]
    later = [(epoch + 1, loss) for epoch, loss in quarters]
    assert asked == [*quarters, (1, 7.0), *later, (2, 6.0)]


def test_every_epoch_takes_every_row_once_in_an_order_of_its_own():
    train = Table(48)
    fit(Line(), train, Table(8), replace(SETTINGS, n_epochs=2))
    epochs = [sum(train.asked[:3], []), sum(train.asked[3:], [])]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(48))
    assert epochs[0] != epochs[1]
    assert epochs[0] != sorted(epochs[0])


# ---------------------------------------------------------------- the seam to other workers


class Rank:
    """One of two ranks that never meet."""

    world_size = 2

    def __init__(self, rank):
        self.rank, self.prepared, self.averaged, self.reported = rank, [], [], []

    def prepare(self, objective):
        self.prepared.append(objective)
        return objective

    def mean(self, value):
        self.averaged.append(value)
        return value + 100.0

    def report(self, record, checkpoint):
        self.reported.append((record["epoch"], checkpoint))


def test_two_ranks_take_halves_of_a_batch_from_rows_of_their_own(tmp_path):
    settings = replace(SETTINGS, n_epochs=4, checkpoint_every=3)
    ranks, tables = [Rank(0), Rank(1)], [Table(40), Table(40, seed=2)]
    for rank, table in zip(ranks, tables, strict=True):
        folder = tmp_path / str(rank.rank)
        result = fit(
            Line(),
            table,
            Table(8),
            settings,
            worker=rank,
            descriptions={},
            checkpoint_dir=folder,
        )
        steps = table.asked  # 40 rows, 8 a step, 4 epochs
        assert {len(step) for step in steps} == {8}
        for epoch in range(4):
            assert sorted(sum(steps[5 * epoch : 5 * epoch + 5], [])) == list(range(40))
        assert len(rank.prepared) == 1
        assert len(rank.averaged) == 3 * 4  # loss, gradient norm, validation
        assert all(record["validation_loss"] > 100 for record in result.history)
    assert tables[0].asked[:5] != tables[1].asked[:5]  # an order of its own
    # only the first writes, and both report as often
    first, second = tmp_path / "0", tmp_path / "1"
    assert ranks[0].reported == [(1, None), (2, None), (3, first), (4, first)]
    assert ranks[1].reported == [(epoch, None) for epoch in (1, 2, 3, 4)]
    assert (first / "last.pt").exists() and (first / "best.pt").exists()
    assert not second.exists()


class Stream(Table):
    """Rows that choose their own order, as what is streamed does."""

    def epoch(self, batch_size, shuffle):
        for start in range(0, len(self) - batch_size + 1, batch_size):
            yield torch.arange(start, start + batch_size)


def test_rows_may_choose_their_own_order():
    train = Stream(40)
    fit(Line(), train, Table(8), replace(SETTINGS, n_epochs=2))
    assert train.asked == 2 * [list(range(16)), list(range(16, 32))]


def test_descriptions_of_the_whole_take_the_place_of_the_rows_own(tmp_path):
    """A checkpoint of two ranks is one that a single process can go on from."""
    whole, validation = Table(40), Table(8)
    part = Table(40)
    part.x, part.y = part.x[:20], part.y[:20]
    described = describe_rows(whole, validation, torch.device("cpu"))
    settings = replace(SETTINGS, n_epochs=2)
    fit(
        Line(),
        part,
        validation,
        settings,
        worker=Rank(0),
        descriptions=described,
        checkpoint_dir=tmp_path,
    )
    result = fit(Line(), whole, validation, settings, checkpoint_dir=tmp_path, resume=True)
    assert [record["epoch"] for record in result.history] == [1, 2]


# ---------------------------------------------------------------- models and bad input


def test_what_is_frozen_stays_and_the_rest_is_averaged_in_its_place():
    model = Line()
    model.linear.weight.requires_grad_(False)
    before = state(model)
    fit(model, Table(40), Table(8), replace(SETTINGS, ema_decay=0.5))
    assert torch.equal(model.linear.weight, before["linear.weight"])
    assert not torch.equal(model.linear.bias, before["linear.bias"])


def test_the_model_is_handed_back_with_memory_of_its_own():
    model = Line()
    fit(model, Table(40), Table(8), SETTINGS)
    for parameter in model.parameters():
        assert parameter.untyped_storage().nbytes() == parameter.nbytes
        assert parameter.grad is None and parameter.requires_grad


def test_a_batch_larger_than_the_data_is_all_of_the_data():
    train = Table(10)
    fit(Line(), train, Table(8), replace(SETTINGS, n_epochs=2, batch_size=4096))
    assert [sorted(batch) for batch in train.asked] == [list(range(10))] * 2


@pytest.mark.parametrize(("n_train", "n_validation"), [(0, 8), (8, 0)])
def test_no_rows_are_refused(n_train, n_validation):
    with pytest.raises(DataError, match=f"got {n_train} and {n_validation}: collect more"):
        fit(Line(), Table(n_train), Table(n_validation), SETTINGS)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"batch_size": 0}, "batch_size: expected at least 1, got 0"),
        ({"n_epochs": 0}, "n_epochs: expected a number at least 1, got 0"),
        ({"cuda_graph": True}, "cuda_graph=true needs one CUDA device, got device cpu"),
        ({"scheduler": {"type": "cosin"}}, "did you mean 'cosine'"),
        ({"patience": 0}, "patience"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(change, words):
    with pytest.raises(ConfigError, match=words):
        fit(Line(), Table(40), Table(8), replace(SETTINGS, **change))


# ---------------------------------------------------------------- a judge


def test_a_judge_sees_the_judged_weights_and_its_figures_join_the_records(tmp_path):
    settings = replace(SETTINGS, ema_decay=0.8, checkpoint_every=1)
    arguments = Table(100), Table(40, seed=1), settings
    plain, judged, seen = Line(noise=0.3), Line(noise=0.3), []

    def judge(model):
        assert not model.training and model is not judged
        torch.rand(3)  # whatever it draws is its own affair
        seen.append(state(model))
        return {"score": float(len(seen))}

    expected = fit(plain, *arguments)
    found = fit(judged, *arguments, checkpoint_dir=tmp_path, judge=judge)
    assert_equal(state(judged), state(plain))
    assert_equal(seen[found.best_epoch - 1], state(judged))
    without = [{k: v for k, v in r.items() if k != "score"} for r in untimed(found.history)]
    assert without == untimed(expected.history)
    assert [record["score"] for record in found.history] == [1, 2, 3, 4, 5, 6]
    # they are in the checkpoint too: a fit that goes on tells them again, and asks nobody
    again = fit(Line(noise=0.3), *arguments, checkpoint_dir=tmp_path, resume=True)
    assert again.history == found.history

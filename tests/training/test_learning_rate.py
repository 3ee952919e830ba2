import math

import pytest
import torch

from flowshield.errors import ConfigError, DataError
from flowshield.training.learning_rate import SCHEDULES, LearningRateScheduler

PEAK = 0.2


def optimizer(rate=PEAK):
    return torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=rate)


def rates(kind, epochs, **settings):
    sgd = optimizer()
    scheduler = LearningRateScheduler(sgd, kind, **settings)
    found = []
    for epoch in epochs:
        scheduler.step(epoch)
        found.append(sgd.param_groups[0]["lr"])
    return found


def grid(stop, start=0.0, n=401):
    return [start + (stop - start) * i / (n - 1) for i in range(n)]


@pytest.mark.parametrize("kind", ["cosine", "linear"])
@pytest.mark.parametrize("warmup", [0.0, 2.5])
def test_falls_from_the_peak_to_the_final_share_of_it(kind, warmup):
    settings = {"n_epochs": 10, "warmup_epochs": warmup, "final_factor": 0.1}
    start, middle, end, after = rates(kind, [warmup, (warmup + 10) / 2, 10, 99], **settings)
    assert start == pytest.approx(PEAK)
    assert middle == pytest.approx(PEAK * 0.55)  # both curves are symmetric about their middle
    assert end == after == pytest.approx(PEAK * 0.1)
    falling = rates(kind, grid(10, warmup), **settings)
    assert all(a > b for a, b in zip(falling, falling[1:], strict=False))


def test_cosine_and_linear_follow_their_curves():
    cosine = rates("cosine", grid(8), n_epochs=8, final_factor=0.0)
    assert cosine == pytest.approx([PEAK * (1 + math.cos(math.pi * t / 8)) / 2 for t in grid(8)])
    linear = rates("linear", grid(8), n_epochs=8, final_factor=0.0)
    assert linear == pytest.approx([PEAK * (1 - t / 8) for t in grid(8)])


def test_cosine_agrees_with_torch():
    sgd = optimizer()
    torchs = torch.optim.lr_scheduler.CosineAnnealingLR(sgd, T_max=12, eta_min=0.05 * PEAK)
    expected = []
    for _ in range(12):
        expected.append(sgd.param_groups[0]["lr"])
        sgd.step()
        torchs.step()
    assert rates("cosine", range(12), n_epochs=12, final_factor=0.05) == pytest.approx(expected)


def test_step_drops_every_step_epochs():
    found = rates("step", [0, 2.99, 3, 5.99, 6], step_epochs=3, step_factor=0.5)
    assert found == pytest.approx([PEAK, PEAK, PEAK / 2, PEAK / 2, PEAK / 4])


def test_constant_is_constant():
    assert rates("constant", grid(500)) == [PEAK] * 401


@pytest.mark.parametrize("kind", SCHEDULES)
def test_warmup_rises_linearly_from_near_0_and_never_is_0(kind):
    settings = {"n_epochs": 1000, "warmup_epochs": 2.0, "final_factor": 1.0, "step_epochs": 500}
    found = rates(kind, grid(2.0), **settings)
    assert 0 < found[0] <= 0.011 * PEAK
    assert found[-1] == pytest.approx(PEAK)
    slopes = [b - a for a, b in zip(found, found[1:], strict=False)]
    assert slopes == pytest.approx([(found[-1] - found[0]) / 400] * 400)


def test_the_first_rate_is_set_before_the_first_step_is_asked_for():
    sgd = optimizer()
    LearningRateScheduler(sgd, "constant", warmup_epochs=1)
    assert sgd.param_groups[0]["lr"] == pytest.approx(0.01 * PEAK)


def test_a_training_that_is_all_warmup_stays_finite():
    assert rates("cosine", [0, 0.5, 1, 2], n_epochs=1, warmup_epochs=1)[-2:] == [PEAK, PEAK]


def test_plateau_agrees_with_torch():
    losses = [5, 4, 4, 4, 4, 3, 3.5, 3.2, 3.1, 3.0, 2.9999, 3, 3, 3, 1, 1, 1, 1, 1, 1, 1]
    ours, theirs = optimizer(), optimizer()
    scheduler = LearningRateScheduler(ours, "plateau", patience=2, step_factor=0.5)
    torchs = torch.optim.lr_scheduler.ReduceLROnPlateau(theirs, patience=2, factor=0.5)
    for epoch, loss in enumerate(losses, start=1):
        scheduler.step(epoch - 0.5)  # within an epoch nothing is judged
        scheduler.step(epoch, loss)
        torchs.step(loss)
        assert ours.param_groups[0]["lr"] == pytest.approx(theirs.param_groups[0]["lr"])
    assert ours.param_groups[0]["lr"] < PEAK / 4


@pytest.mark.parametrize("kind", SCHEDULES)
def test_goes_on_exactly_from_its_state(kind):
    settings = {"n_epochs": 12, "warmup_epochs": 1.5, "step_epochs": 3, "patience": 1}
    unbroken = optimizer()
    scheduler = LearningRateScheduler(unbroken, kind, **settings)
    for epoch in range(1, 8):
        scheduler.step(epoch, val_loss=1.0)
    # resumed the hard way: the optimizer's restored rate is not the peak
    resumed = optimizer(unbroken.param_groups[0]["lr"])
    other = LearningRateScheduler(resumed, kind, **settings)
    other.load_state_dict(scheduler.state_dict())
    assert resumed.param_groups[0]["lr"] == unbroken.param_groups[0]["lr"]
    for epoch in range(8, 13):
        scheduler.step(epoch, val_loss=1.0)
        other.step(epoch, val_loss=1.0)
        assert resumed.param_groups[0]["lr"] == unbroken.param_groups[0]["lr"]


def test_a_tensor_rate_is_filled_in_place():
    rate = torch.tensor(PEAK)
    adam = torch.optim.AdamW([torch.zeros(1, requires_grad=True)], lr=rate, capturable=True)
    scheduler = LearningRateScheduler(adam, "linear", n_epochs=10, final_factor=0.0)
    held = adam.param_groups[0]["lr"]
    scheduler.step(5)
    assert adam.param_groups[0]["lr"] is held
    assert float(held) == pytest.approx(PEAK / 2)


def test_every_group_keeps_its_own_peak():
    groups = [{"params": [torch.zeros(1, requires_grad=True)], "lr": rate} for rate in (1.0, 0.1)]
    sgd = torch.optim.SGD(groups)
    LearningRateScheduler(sgd, "linear", n_epochs=4, final_factor=0.0).step(1)
    assert [group["lr"] for group in sgd.param_groups] == pytest.approx([0.75, 0.075])


def test_an_unknown_type_lists_the_near_ones():
    with pytest.raises(ConfigError, match="unknown scheduler 'cosin': did you mean 'cosine'"):
        LearningRateScheduler(optimizer(), "cosin")


@pytest.mark.parametrize(
    "settings",
    [
        {"n_epochs": 0},
        {"warmup_epochs": -1},
        {"final_factor": 1.5},
        {"step_epochs": 0},
        {"step_factor": 0},
        {"patience": -1},
        {"warmup_epochs": math.nan},
    ],
)
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(ConfigError, match=next(iter(settings))):
        LearningRateScheduler(optimizer(), **settings)


def test_plateau_refuses_a_loss_that_is_nan():
    with pytest.raises(DataError, match="got NaN"):
        LearningRateScheduler(optimizer(), "plateau").step(1, math.nan)

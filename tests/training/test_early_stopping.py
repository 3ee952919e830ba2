import math

import pytest

from flowshield.errors import ConfigError, DataError
from flowshield.training.early_stopping import EarlyStopping


def verdicts(losses, **settings):
    stopping = EarlyStopping(**settings)
    return [stopping(loss) for loss in losses]


def test_stops_after_patience_epochs_without_improvement():
    assert verdicts([3, 2, 2, 2, 2], patience=3) == [False, False, False, False, True]


def test_an_improvement_starts_the_count_anew():
    assert not any(verdicts([3, 3, 2, 2, 1, 1, 0, 0], patience=2))


def test_a_smaller_improvement_than_min_delta_does_not_count():
    assert verdicts([1.0, 0.95, 0.91], patience=2, min_delta=0.1) == [False, False, True]
    # many small ones add up: they are measured from the last that counted
    assert not any(verdicts([1.0, 0.95, 0.89, 0.85, 0.78], patience=2, min_delta=0.1))


def test_best_is_the_loss_to_undercut():
    stopping = EarlyStopping(min_delta=0.1)
    assert stopping.best == math.inf
    for loss in (1.0, 0.95, 0.5, 0.7):
        stopping(loss)
    assert stopping.best == 0.5


def test_goes_on_exactly_from_its_state():
    losses = [3, 2, 2.5, 2.2, 1.9, 2, 2, 2, 2]
    unbroken = EarlyStopping(patience=4)
    expected = [unbroken(loss) for loss in losses]
    for cut in range(len(losses)):
        first, second = EarlyStopping(patience=4), EarlyStopping(patience=4)
        seen = [first(loss) for loss in losses[:cut]]
        second.load_state_dict(first.state_dict())
        assert seen + [second(loss) for loss in losses[cut:]] == expected


def test_nan_is_an_error_and_leaves_the_state_alone():
    stopping = EarlyStopping(patience=2)
    stopping(1.0)
    before = stopping.state_dict()
    with pytest.raises(DataError, match="got NaN"):
        stopping(math.nan)
    assert stopping.state_dict() == before


def test_an_infinite_loss_is_no_improvement():
    assert verdicts([math.inf, math.inf], patience=2) == [False, True]


@pytest.mark.parametrize("settings", [{"patience": 0}, {"min_delta": -1}, {"min_delta": math.nan}])
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(ConfigError, match=next(iter(settings))):
        EarlyStopping(**settings)

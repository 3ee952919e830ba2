import sys
from types import SimpleNamespace

import matplotlib
import numpy as np
import pytest
from omegaconf import OmegaConf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from flowshield.errors import ConfigError, DataError
from flowshield.training.logger import Logger

matplotlib.use("agg")


def read(folder):
    events = EventAccumulator(str(folder))
    events.Reload()
    return events


def figure():
    from matplotlib.figure import Figure

    made = Figure(figsize=(2, 1), dpi=50)
    made.add_subplot().plot([0, 1])
    return made


def test_scalars_come_back_with_their_steps(tmp_path):
    with Logger(tmp_path / "deep" / "folder") as logger:
        for step, value in [(1, 0.5), (2, 0.25), (10, -3.0)]:
            logger.log_scalar("loss/train", value, step)
    found = read(tmp_path / "deep" / "folder").Scalars("loss/train")
    assert [(event.step, event.value) for event in found] == [(1, 0.5), (2, 0.25), (10, -3.0)]


def test_a_histogram_holds_count_range_and_sum(tmp_path):
    values = np.linspace(-1, 3, 50).reshape(5, 10)
    with Logger(tmp_path) as logger:
        logger.log_histogram("weights", values, step=4)
    (event,) = read(tmp_path).Histograms("weights")
    histogram = event.histogram_value
    assert event.step == 4 and histogram.num == 50
    assert (histogram.min, histogram.max) == (-1, 3)
    assert histogram.sum == pytest.approx(values.sum())


@pytest.mark.parametrize("values", [np.array([]), np.array([1.0, np.nan]), np.array([np.inf])])
def test_a_histogram_of_nothing_or_of_nan_is_refused(tmp_path, values):
    with Logger(tmp_path) as logger, pytest.raises(DataError, match="'w': expected finite values"):
        logger.log_histogram("w", values, step=0)


@pytest.mark.parametrize("wrap", [dict, OmegaConf.create])
def test_the_config_comes_back_nested(tmp_path, wrap):
    with Logger(tmp_path) as logger:
        logger.log_config(wrap({"seed": 42, "optimizer": {"ema_decay": None}}))
    (event,) = read(tmp_path).Tensors("config/text_summary")
    text = event.tensor_proto.string_val[0].decode()
    assert '"seed": 42' in text and '"ema_decay": null' in text
    # every line is indented, or Markdown would fold them
    assert all(line.startswith("    ") for line in text.splitlines())


def test_a_figure_comes_back_as_a_picture_of_its_size(tmp_path):
    with Logger(tmp_path) as logger:
        logger.log_figure("plane", figure(), step=7)
    (event,) = read(tmp_path).Images("plane")
    assert (event.step, event.width, event.height) == (7, 100, 50)


def test_closes_when_the_body_fails_and_twice(tmp_path):
    with pytest.raises(ZeroDivisionError), Logger(tmp_path) as logger:
        logger.log_scalar("a", 1.0, 1)
        raise ZeroDivisionError
    logger.close()
    assert read(tmp_path).Scalars("a")[0].value == 1.0


def test_wandb_without_the_package_names_the_extra_and_leaves_no_file(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match=r'pip install "flowshield\[wandb\]"'):
        Logger(tmp_path / "new", use_wandb=True)
    assert not (tmp_path / "new").exists()


class FakeRun:
    """Stands in for a W&B run: keeps what it is given."""

    def __init__(self):
        self.seen, self.logged, self.metrics, self.finished = {}, [], [], 0
        self.config = SimpleNamespace(update=lambda new, allow_val_change: self.seen.update(new))

    def define_metric(self, name, step_metric):
        self.metrics.append((name, step_metric))

    def log(self, values):
        self.logged.append(values)

    def finish(self):
        self.finished += 1


def test_wandb_gets_the_same_under_the_same_names(tmp_path, monkeypatch):
    run = FakeRun()
    fake = SimpleNamespace(
        init=lambda **settings: run, Histogram=lambda values: len(values), Image=lambda shown: shown
    )
    monkeypatch.setitem(sys.modules, "wandb", fake)
    shown = figure()
    with Logger(tmp_path, use_wandb=True) as logger:
        logger.log_config({"seed": 42})
        logger.log_scalar("loss", 0.5, 3)
        logger.log_histogram("weights", np.ones(5), 2)
        logger.log_figure("plane", shown, 1)
    assert run.seen == {"seed": 42}
    assert run.metrics == [("*", "step")]
    assert run.logged == [
        {"loss": 0.5, "step": 3},
        {"weights": 5, "step": 2},
        {"plane": shown, "step": 1},
    ]
    assert run.finished == 1
    assert read(tmp_path).Scalars("loss")[0].step == 3

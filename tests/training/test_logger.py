import sys
import time

import matplotlib
import numpy as np
import pytest
from omegaconf import OmegaConf
from patience import PATIENCE_S
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from flowshield.errors import ConfigError, DataError
from flowshield.training import hyperparameters
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


def test_a_row_of_the_hparams_table_comes_back(tmp_path):
    from tensorboard.plugins.hparams import metadata

    with Logger(tmp_path) as logger:
        logger.log_hparams({"seed": 42, "model.activation": "silu", "ema": True}, {"loss": 0.5})
    events = read(tmp_path)
    content = events.SummaryMetadata(metadata.SESSION_START_INFO_TAG).plugin_data.content
    row = metadata.parse_session_start_info_plugin_data(content).hparams
    assert (row["seed"].number_value, row["ema"].number_value) == (42, 1)
    assert row["model.activation"].string_value == "silu"
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(0, 0.5)]


def test_the_hparams_table_has_every_runs_metrics(tmp_path):
    from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
    from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
    from tensorboard.context import RequestContext
    from tensorboard.plugins.base_plugin import TBContext
    from tensorboard.plugins.hparams.backend_context import Context

    for name, metric in (("agent", "best_validation_loss"), ("evaluation", "return/none/200_280")):
        with Logger(tmp_path / name) as logger:
            logger.log_hparams({"seed": 42}, {metric: 0.5})
    runs = EventMultiplexer().AddRunsFromDirectory(str(tmp_path)).Reload()
    provider = MultiplexerDataProvider(runs, str(tmp_path))
    board, request = Context(TBContext(data_provider=provider)), RequestContext()
    content = board.hparams_metadata(request, "")
    table = board.experiment_from_metadata(request, "", True, content, None)
    assert {metric.name.tag for metric in table.metric_infos} == {
        "best_validation_loss",
        "return/none/200_280",
    }
    assert [setting.name for setting in table.hparam_infos] == ["seed"]


@pytest.mark.parametrize(("anew", "steps"), [(True, [1]), (False, [2, 1])])
def test_a_logger_that_starts_anew_replaces_what_was_there(tmp_path, anew, steps):
    for step in (2, 1):
        with Logger(tmp_path, anew=anew) as logger:
            logger.log_scalar("loss", step, step)
        time.sleep(1.1)  # the files are named after the second, and read in that order
    assert [event.step for event in read(tmp_path).Scalars("loss")] == steps


def test_every_setting_is_a_hyperparameter_but_where_it_runs_and_logs():
    config = OmegaConf.create(
        {"seed": 1, "log_dir": "x", "ray": {"num_workers": 2}, "a": {"b": None, "c": [1, 2]}}
    )
    assert hyperparameters(config) == {"seed": 1, "a.b": "null", "a.c": "[1, 2]"}


def test_wandb_gets_the_same_under_the_same_names(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    # two at once, as models that train side by side
    with (
        Logger(tmp_path / "agent", use_wandb=True) as agent,
        Logger(tmp_path / "quantile", use_wandb=True) as shield,
    ):
        agent.log_config({"seed": 42})
        agent.log_scalar("train_loss", 0.5, 3)
        shield.log_scalar("train_loss", 0.25, 1)
        shield.log_histogram("scores/calibration", np.ones(5), 2)
        shield.log_figure("figures/plane", figure(), 1)
        shield.log_hparams({"seed": 42}, {"best_validation_loss": 2.0})
    (of_agent,) = (tmp_path / "agent").rglob("*.wandb")  # such a file holds names uncompressed
    (of_shield,) = (tmp_path / "quantile").rglob("*.wandb")
    # a process of W&B's writes them, on a busy machine later than it says
    deadline = time.monotonic() + PATIENCE_S
    while b"train_loss" not in of_agent.read_bytes() and time.monotonic() < deadline:
        time.sleep(0.1)
    events = read(tmp_path / "quantile")
    names = [*events.Tags()["scalars"], *events.Tags()["histograms"], *events.Tags()["images"]]
    assert len(names) == 4
    for name in names:
        assert name.encode() in of_shield.read_bytes(), name
    assert b"train_loss" in of_agent.read_bytes()
    assert b"scores/calibration" not in of_agent.read_bytes()

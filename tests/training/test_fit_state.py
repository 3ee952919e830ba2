"""A last.pt that is damaged, foreign or made up is refused by name; the model is untouched."""

import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_fit import SETTINGS, Killed, Line, Table, assert_equal, kill_at, state

from flowshield.errors import ConfigError, FileFormatError
from flowshield.models.serialization import load_payload, save_payload
from flowshield.training import fit

NAN = math.nan


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fit")
    fit_here(Line(), folder)
    return folder / "last.pt"


@pytest.fixture
def last(finished, tmp_path):
    return Path(shutil.copy(finished, tmp_path))


def fit_here(model, folder, **arguments):
    settings = replace(SETTINGS, checkpoint_every=1)
    return fit(model, Table(40), Table(8), settings, checkpoint_dir=folder, **arguments)


def refuse(last, reason):
    model = Line()
    before = state(model)
    with pytest.raises(FileFormatError, match=rf"(?s)last\.pt.*({reason})"):
        fit_here(model, last.parent, resume=True)
    assert_equal(state(model), before)


def put(content, place, value):
    """Sets, or with None as value removes, what lies at the end of a path of keys."""
    *path, key = place
    for step in path:
        content = content[step]
    if value is None:
        del content[key]
    else:
        content[key] = value


MOMENTS = ("optimizer", "state", 0)
STEP, AVERAGE, SQUARE = ((*MOMENTS, name) for name in ("step", "exp_avg", "exp_avg_sq"))


@pytest.mark.parametrize(
    ("place", "value", "reason"),
    [
        (("identity",), None, "identity"),
        (("identity",), [1, 2], "list"),
        (("identity", "n_epochs"), torch.zeros(3), "ambiguous"),
        (("model",), None, "model"),
        (("model",), [], "model: expected"),
        (("model", "linear.weight"), None, "model: expected"),
        (("model", "linear.weight"), torch.zeros(1, 3), "linear.weight: expected"),
        (("model", "linear.weight"), torch.zeros(1, 2).double(), "linear.weight: expected"),
        (("model", "linear.weight"), "a", "linear.weight: expected"),
        (("judged", "linear.bias"), torch.zeros(2), "judged.linear.bias"),
        (("best_state", "linear.bias"), torch.tensor([NAN]), "best_state.linear.bias: holds NaN"),
        (("best_state", "more"), torch.zeros(1), "best_state: expected"),
        (("optimizer",), None, "optimizer"),
        (MOMENTS, None, "optimizer"),
        (STEP, torch.tensor(-1.0), "steps of 1"),
        (STEP, 3, "step: expected"),
        (AVERAGE, torch.zeros(1, 3), "exp_avg: expected"),
        (AVERAGE, torch.tensor([0, NAN, 0]), "exp_avg: holds NaN"),
        (SQUARE, torch.tensor([0, -1.0, 0]), "squares of 0"),
        (("scheduler", "drops"), -100, "drops: expected 0"),
        (("scheduler", "peaks"), [5.0], "peaks: expected"),
        (("scheduler", "epoch"), NAN, "epoch: expected"),
        (("stopping", "waited"), -(10**9), "waited: expected"),
        (("stopping", "best"), -math.inf, "best: expected"),
        (("best_loss",), -1.0, "best_loss: expected"),
        (("best_epoch",), 10**9, "best_epoch: expected"),
        (("epoch",), 2, "epoch: expected"),
        (("epoch",), "2", "epoch: expected"),
        (("stopped",), True, "stopped: expected"),
        (("history",), None, "history"),
        (("history",), 3, "history|iterable"),
        (("history", 2), None, "record 3"),
        (("history", 5), [], "items"),
        (("history", 5, "epoch"), 5, "record 6"),
        (("history", 5, "validation_loss"), NAN, "record 6"),
        (("history", 5, "train_loss"), math.inf, "record 6"),
        (("history", 5, "seconds"), 10**400, "record 6"),
        (("history", 5, "seconds"), torch.zeros(1), "record 6"),
        (("history", 5, 7), 1.0, "record 6"),
    ],
    ids=lambda value: ".".join(map(str, value)) if isinstance(value, tuple) else "",
)
def test_what_no_fit_writes_is_refused(last, place, value, reason):
    content = load_payload(last, "fit")
    put(content, place, value)
    save_payload(last, "fit", content)
    refuse(last, reason)


def test_a_history_that_goes_on_after_the_end_is_refused(last):
    content = load_payload(last, "fit")
    content["history"].append({**content["history"][-1], "epoch": 7})
    save_payload(last, "fit", content)
    refuse(last, "after its last epoch, 6")


def test_the_file_of_another_kind_or_half_of_one_is_refused(last):
    content = last.read_bytes()
    last.write_bytes(content[: len(content) // 2])
    refuse(last, "truncated")
    save_payload(last, "agent", {})
    refuse(last, "holds a 'agent'")


def test_a_setting_of_any_length_is_cut_in_the_message(last):
    content = load_payload(last, "fit")
    content["identity"]["n_epochs"] = "9" * 10_000
    save_payload(last, "fit", content)
    with pytest.raises(ConfigError, match="n_epochs=") as caught:
        fit_here(Line(), last.parent, resume=True)
    assert len(str(caught.value)) < 500


@pytest.fixture
def broken(tmp_path):
    """The last.pt of the third of six epochs."""
    with pytest.raises(Killed):
        fit_here(Line(), tmp_path, on_epoch=kill_at(4))
    return tmp_path / "last.pt"


@pytest.mark.parametrize("changes", [{"lr": 1e9}, {"maximize": True}, {"betas": (2.0, 2.0)}])
def test_the_settings_of_the_optimizer_are_not_the_files(broken, tmp_path, changes):
    whole, ours = Line(), Line(seed=5)
    fit_here(whole, tmp_path / "whole")
    content = load_payload(broken, "fit")
    content["optimizer"]["param_groups"][0].update(changes)
    save_payload(broken, "fit", content)
    fit_here(ours, broken.parent, resume=True)
    assert_equal(state(ours), state(whole))


def test_moments_that_lie_in_one_place_are_laid_apart(broken):
    content = load_payload(broken, "fit")
    one = torch.ones(3)[:1].expand(3)
    content["optimizer"]["state"][0] |= {"exp_avg": one, "exp_avg_sq": one}
    save_payload(broken, "fit", content)
    fit_here(Line(), broken.parent, resume=True)
    found = load_payload(broken, "fit")["optimizer"]["state"][0]
    assert not torch.equal(found["exp_avg"], found["exp_avg_sq"])

import base64
import contextlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import ctrl_c
import numpy as np
import pytest
import torch
from patience import PATIENCE_S
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny import TINY

from flowshield.cli import main
from flowshield.data import DataCollector, TrajectoryDataset
from flowshield.envs import make_env
from flowshield.errors import ConfigError
from flowshield.evaluation.wording import shield_label
from flowshield.models import BaseShield, UDRLAgent
from flowshield.models.serialization import load_payload
from flowshield.pipeline.run_verdict import run_verdict
from flowshield.run_config import load_config
from flowshield.run_folder import RunFolder

HERE = [*TINY, "n_epochs=2", "shield_epochs=2", "checkpoint_every=1", "ray.num_workers=0"]


def run(command, folder, *overrides):
    return main([command, f"run_dir={folder}", *overrides])


def results(folder):
    return json.loads((folder / "results.json").read_text())


def weights(folder, name):
    model = UDRLAgent if name == "agent" else BaseShield
    return model.load(folder / "models" / f"{name}.pt").state_dict()


def assert_same_weights(a, b):
    assert a.keys() == b.keys()
    for key in a:
        assert torch.equal(a[key], b[key]), key


MEASURED = ("cells", "shields", "followed")
SECRET = "0123456789abcdef" * 4


@pytest.fixture(scope="module")
def finished_and_told(tmp_path_factory):
    folder, printed = tmp_path_factory.mktemp("run") / "finished", io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        for name in ("WANDB_API_KEY", "RAY_AUTH_TOKEN", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, SECRET)
        assert run("run", folder, *HERE) == 0
    return folder, printed.getvalue()


@pytest.fixture(scope="module")
def finished(finished_and_told):
    return finished_and_told[0]


def test_a_run_says_nothing_twice_and_one_name_in_one_way(finished_and_told):
    folder, told = finished_and_told
    lines = [line.partition("  ")[2] for line in told.splitlines() if "  " in line.strip()]
    promises = [line for line in lines if "is flagged with probability at most" in line]
    assert len(promises) == len(set(promises)) == 4
    assert "flow_matching" in told and "flow matching" not in told
    assert not re.search(
        r"\b1 (\w+-\w+ )?(episodes|steps|epochs|moments|failures|commands)\b", told
    )
    seconds = results(folder)["seconds"]
    parts = ", ".join(f"{stage} {time:.0f}" for stage, time in seconds.items())
    work = f"{sum(seconds.values()):.0f} s of work in this folder, over all starts ({parts})"
    assert lines[-1] == f"done: {work}; open {folder / 'report.html'}"


def test_no_secret_of_the_environment_lies_in_a_run_folder(finished):
    files = [path for path in finished.rglob("*") if path.is_file()]
    assert files and not [path for path in files if SECRET.encode() in path.read_bytes()]


def test_the_command_plane_is_of_the_shield_that_the_verdict_names_first(finished):
    first = run_verdict(RunFolder(finished)).shields[0].shield
    pictures = re.findall(r"base64,([\w+/=]+)", (finished / "report.html").read_text())
    drawn = [base64.b64decode(picture).decode() for picture in pictures]
    assert [f"{shield_label(first)}: log p" in svg for svg in drawn].count(True) == 1


def test_a_run_leaves_everything_it_promises(finished):
    for name in ("config.yaml", "dataset.npz", "results.json", "report.html"):
        assert (finished / name).stat().st_size > 0, name
    assert {p.stem for p in (finished / "models").glob("*.pt")} == {
        "agent",
        "outcome",
        "quantile",
        "mixture",
        "diffusion",
        "flow_matching",
    }
    assert len(list((finished / "figures").glob("*.png"))) == 6
    assert not (finished / "explorer.html").exists()  # TINY asks for none
    assert 'href="explorer' not in (finished / "report.html").read_text()
    for name in ("agent", "flow_matching"):
        assert list((finished / "tensorboard" / name).glob("events*"))
        assert (finished / "checkpoints" / name / "last.pt").exists()
        assert (finished / "checkpoints" / name / "best.pt").exists()
    content = results(finished)
    assert [(c["shield"], tuple(c["command"])) for c in content["cells"]] == [
        (shield, command)
        for shield in ("none", "quantile", "mixture", "diffusion", "flow_matching")
        for command in ((200, 280), (1000, 280))
    ]
    assert list(content["followed"]) == ["quantile", "mixture", "diffusion", "flow_matching"]
    for name, record in content["followed"].items():
        n_starts = record["n_starts"]
        assert n_starts + record["n_starts_left_out"] == 3
        assert record["n_episodes"] == len(record["achieved"]) == 2 * n_starts, name
    assert "supported by" in (finished / "table.md").read_text()
    assert not list(finished.rglob(".*"))  # no temporary file is left


def events_of(folder):
    events = EventAccumulator(str(folder))
    events.Reload()
    return events


def test_tensorboard_shows_training_calibration_scores_and_the_report(finished):
    shields = ("quantile", "mixture", "diffusion", "flow_matching")
    for name in ("agent", *shields):
        events = events_of(finished / "tensorboard" / name)
        history = json.loads((finished / "models" / f"{name}.json").read_text())["history"]
        for key in ("train_loss", "validation_loss", "learning_rate", "gradient_norm"):
            found = [(event.step, event.value) for event in events.Scalars(key)]
            assert found == [(row["epoch"], pytest.approx(row[key])) for row in history], key
        assert "_hparams_/session_start_info" in events.summary_metadata
    for name in shields:
        shield = BaseShield.load(finished / "models" / f"{name}.pt")
        events = events_of(finished / "tensorboard" / name)
        (threshold,) = events.Scalars("calibration/threshold")
        assert threshold.value == pytest.approx(shield.calibration.thresholds[0])
        (scores,) = events.Histograms("scores/calibration")
        assert scores.histogram_value.num == shield.calibration.n[0]
    events, content = events_of(finished / "tensorboard" / "evaluation"), results(finished)
    figures = {p.stem for p in (finished / "figures").glob("*.png")}
    assert set(events.Tags()["images"]) == {f"figures/{name}" for name in figures}
    for name in shields:
        levels = content["shields"][name]["false_alarms_by_level"]
        assert [(e.step, e.value) for e in events.Scalars(f"calibration/{name}")] == [
            (round(100 * level["alpha"]), pytest.approx(level["rate"])) for level in levels
        ]
        (true,) = events.Histograms(f"scores/{name}/true")
        assert true.histogram_value.num == 60
        assert events.Histograms(f"scores/{name}/impossible")
    assert events.Scalars("return/none/200_280")[0].value == pytest.approx(
        content["cells"][0]["return_mean"]
    )
    assert "_hparams_/session_start_info" in events.summary_metadata


def test_cells_of_a_command_differ_only_by_what_the_shield_changed(finished):
    cells = {(c["shield"], tuple(c["command"])): c for c in results(finished)["cells"]}
    none = cells["none", (200, 280)]
    for shield in ("quantile", "mixture", "diffusion", "flow_matching"):
        cell = cells[shield, (200, 280)]
        assert cell["flagged_rate"] is not None and none["flagged_rate"] is None
        if cell["flagged_rate"] == 0.0:  # a shield that never spoke changed nothing
            assert cell["returns"] == none["returns"]
        difference = np.mean(cell["returns"]) - np.mean(none["returns"])
        assert cell["vs_none"]["mean"] == pytest.approx(difference)


def test_a_finished_run_is_read_not_repeated(finished):
    before = {p: p.stat().st_mtime_ns for p in finished.rglob("*.pt")}
    dataset = (finished / "dataset.npz").stat().st_mtime_ns
    old = results(finished)
    assert run("run", finished) == 0
    assert {p: p.stat().st_mtime_ns for p in finished.rglob("*.pt")} == before
    assert (finished / "dataset.npz").stat().st_mtime_ns == dataset
    new = results(finished)
    for part in ("cells", "shields", "followed"):
        assert new[part] == old[part]


def test_a_run_goes_on_from_what_is_left_and_ends_in_the_same_numbers(finished, tmp_path):
    folder = tmp_path / "broken"
    assert run("collect", folder, *HERE) == 0
    assert run("train", folder) == 0
    for path in (folder / "models").glob("flow_matching.*"):
        path.unlink()  # as if killed before the last shield was written
    assert run("run", folder) == 0
    assert (folder / "dataset.npz").read_bytes() == (finished / "dataset.npz").read_bytes()
    for name in ("agent", "quantile", "mixture", "diffusion", "flow_matching"):
        assert_same_weights(weights(folder, name), weights(finished, name))
    ours, theirs = results(folder), results(finished)
    for part in ("cells", "shields", "followed"):
        assert ours[part] == theirs[part]


@pytest.mark.slow
def test_a_run_killed_in_training_ends_in_the_weights_of_an_unbroken_one(finished, tmp_path):
    folder = tmp_path / "killed"
    command = [sys.executable, "-m", "flowshield", "train", f"run_dir={folder}", *HERE]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    checkpoint = folder / "checkpoints" / "diffusion" / "last.pt"
    deadline = time.monotonic() + PATIENCE_S
    while not checkpoint.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert checkpoint.exists() and process.poll() is None, "was to be killed while it trained"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert run("train", folder) == 0
    for name in ("agent", "quantile", "mixture", "diffusion", "flow_matching"):
        assert_same_weights(weights(folder, name), weights(finished, name))


@pytest.mark.slow
def test_ctrl_c_in_training_says_in_one_line_how_to_go_on(finished, tmp_path):
    folder = tmp_path / "stopped"
    data = [f"data.path={finished / 'dataset.npz'}", "shield=quantile", "n_epochs=10000"]
    settings = [o for o in HERE if not o.startswith(("data.", "n_epochs"))]
    command = [*ctrl_c.COMMAND, "train", f"run_dir={folder}", *data, *settings]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen([*command, "early_stopping.patience=10000"], **pipes)
    checkpoint = folder / "checkpoints" / "agent" / "last.pt"
    deadline = time.monotonic() + PATIENCE_S
    while not checkpoint.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, error = process.communicate()
    assert process.returncode == 130
    assert error == f"flowshield: interrupted; to go on: flowshield train run_dir={folder}\n"
    assert "\x1b" not in out  # no terminal, no codes for one
    assert load_payload(checkpoint, "fit")["epoch"] >= 1


def test_the_stages_work_alone_on_files(finished, tmp_path, capsys):
    folder = tmp_path / "alone"
    data = [f"data.path={finished / 'dataset.npz'}", "shield=quantile"]
    settings = [o for o in HERE if not o.startswith(("data.", "evaluation.explorer."))]
    settings += [
        f"evaluation.explorer.n_{name}" for name in ("episodes=1", "moments=1", "requests=2")
    ]
    assert run("train", folder, *data, *settings) == 0
    assert not (folder / "dataset.npz").exists()
    assert_same_weights(weights(folder, "quantile"), weights(finished, "quantile"))
    shutil.copytree(folder, tmp_path / "later")
    assert run("evaluate", folder) == 0
    assert list(results(folder)["shields"]) == ["quantile"]
    explorer = (folder / "explorer.html").read_text()
    assert '"opening":' in explorer and "explore" in results(folder)["seconds"]
    assert 'href="explorer.html"' in (folder / "report.html").read_text()
    printed = capsys.readouterr().out
    assert "flow_matching" not in printed
    assert printed.count("is flagged with probability at most") == 2  # by either command
    for question in ("Is there a failure to fix?", "Which shield fixes it?", "How sure is that?"):
        assert f"evaluate  {question} " in printed
    assert printed.count("policy on the returns that quantile supports: ") == 1

    # what was measured by other settings is measured again, as if for the first time
    more = ["evaluation.n_episodes=4", "env.commands=[[1000,280],[50,0]]"]
    before = (folder / "explorer.html").read_bytes()
    for place in (folder, tmp_path / "later"):
        assert run("evaluate", place, *more) == 0
    again, first = results(folder), results(tmp_path / "later")
    assert [c["n_episodes"] for c in again["cells"]] == [4, 4, 4, 4]
    assert [again[key] for key in MEASURED] == [first[key] for key in MEASURED]
    assert (folder / "explorer.html").read_bytes() != before
    records = {path: path.stat().st_mtime_ns for path in (folder / "cells").iterdir()}
    assert run("evaluate", folder) == 0  # by the same settings nothing is
    assert {path: path.stat().st_mtime_ns for path in (folder / "cells").iterdir()} == records
    # how it was made: everything that was typed for it, the first first
    typed = results(folder)["command"].splitlines()
    assert typed[0].startswith("flowshield train ") and "evaluation.n_episodes=4" in typed[2]
    assert len(typed) == 4 and typed[1] == typed[3]  # what was last typed tells the last


def test_a_key_that_is_typed_speaks_of_itself_only(tmp_path, capsys):
    folder = tmp_path / "x"
    assert run("collect", folder, "profile=quick", "data.n_episodes=20", "ray.num_workers=0") == 0
    load_config([f"run_dir={folder}", "seed=42"])
    with pytest.raises(ConfigError, match=r"settings \(seed is 42 there, 7 asked for\): leave"):
        load_config([f"run_dir={folder}", "seed=7"])
    with pytest.raises(ConfigError, match="checkpoint_every is 2 there, 10 asked"):
        load_config([f"run_dir={folder}", "profile=full"])


def test_how_large_the_explorer_is_is_no_setting_of_a_measurement(tmp_path):
    folder = tmp_path / "x"
    assert run("collect", folder, *HERE, "data.n_episodes=20") == 0
    config, _ = load_config([f"run_dir={folder}", "evaluation.n_episodes=7"])
    assert config.evaluation.n_episodes == 7 and config.evaluation.n_states == 60
    with pytest.raises(ConfigError, match="evaluation.explorer.n_moments is"):
        load_config([f"run_dir={folder}", "evaluation.explorer.n_moments=7"])
    (folder / "sweep").mkdir()  # whose trials are all judged alike
    with pytest.raises(ConfigError, match="evaluation.n_states is 60 there, 70 asked"):
        load_config([f"run_dir={folder}", "evaluation.n_states=70"])


def test_refused_commands_are_not_how_a_run_was_made(tmp_path):
    folder = RunFolder(tmp_path)
    assert folder.remember("first") == ["first"]
    assert folder.remember("second") == ["second"]  # nothing was made by the first
    folder.models.mkdir()
    assert folder.remember("third") == folder.remember("third") == ["second", "third"]
    assert folder.remember("second") == ["second", "third", "second"]
    folder.commands.write_text('{"typed": 3}')  # a stranger's
    assert folder.remember("fourth") == ["fourth"]


def test_near_commands_have_cells_of_their_own(tmp_path):
    folder = RunFolder(tmp_path)
    assert folder.cell("none", (200.0, 280.0)).name == "none_200_280.json"
    assert folder.cell("none", (1.0, 1234567.0)) != folder.cell("none", (1.0, 1234568.0))


def test_an_environment_of_ones_own_is_not_asked_what_another_is(tmp_path, capsys):
    assert run("run", tmp_path / "x", "ray.num_workers=0", "env.name=Pendulum-v1") == 1
    assert "needs 'env.commands=[[H,R],...]'" in capsys.readouterr().err
    assert run("run", tmp_path / "x", "ray.num_workers=0", "env.name=cartpole") == 1
    assert "did you mean env=cartpole?" in capsys.readouterr().err
    few = ["ray.num_workers=0", "data.n_episodes=5"]  # refused after that
    assert run("train", tmp_path / "y", *few, "env.name=lunarlander") == 1
    assert "needs 'env.commands" not in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_other_settings_in_the_same_folder_are_refused_by_name(finished, capsys):
    assert run("run", finished, *HERE, "seed=7") == 1
    error = capsys.readouterr().err
    assert "seed is 42 there, 7 asked for" in error
    assert results(finished)["dataset"]["seed"] == 42


def test_a_dataset_that_is_not_there_is_not_collected_in_silence(tmp_path, capsys):
    assert run("run", tmp_path / "x", *HERE, "data.path=nowhere.npz") == 1
    assert "nowhere.npz does not exist" in capsys.readouterr().err
    assert not Path("nowhere.npz").exists()


@pytest.mark.parametrize(
    ("of", "env", "said"),
    [
        (
            "cartpole",
            "pendulum",
            "the dataset of cartpole has states of length 4 and 2 discrete actions, "
            "environment pendulum has states of length 3 and actions of length 1",
        ),
        ("lunarlander", "lunarlander_discrete", "8 and 4 discrete actions"),
        ("lunarlander_discrete", "lunarlander", "8 and actions of length 2"),
    ],
)
def test_data_of_another_environment_are_refused_before_training(tmp_path, capsys, of, env, said):
    path = tmp_path / "data.npz"
    DataCollector(make_env(of)).collect(2, seed=0).save(path)
    given = [f"env={env}", f"data.path={path}", "ray.num_workers=0", "device=cpu"]
    assert run("run", tmp_path / "x", *given) == 1
    error = capsys.readouterr().err
    assert said in error and "choose the data's environment with env=" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "x" / "models").exists()


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ("env.name=elsewhere", "cannot check that the data fit elsewhere"),
        ("env=lunarlander", "states of length 3 and actions of length 1, environment lunarlander"),
    ],
)
def test_training_alone_needs_no_environment_and_says_what_will(tmp_path, capsys, env, said):
    path = tmp_path / "data.npz"
    DataCollector(make_env("pendulum", max_episode_steps=20)).collect(80, seed=0).save(path)
    given = [*HERE, "shield=quantile", env, f"data.path={path}"]
    assert run("train", tmp_path / "x", *given) == 0
    assert said in capsys.readouterr().out
    assert run("evaluate", tmp_path / "x") == 1
    assert "elsewhere" in (error := capsys.readouterr().err) or said in error


def test_evaluating_what_was_not_trained_says_so(tmp_path, capsys):
    (tmp_path / "x").mkdir()
    assert run("evaluate", tmp_path / "x", *HERE) == 1
    assert "collect and train first" in capsys.readouterr().err


def test_the_dataset_of_a_run_is_the_collectors(finished):
    dataset = TrajectoryDataset(finished / "dataset.npz")
    assert dataset.n_episodes == 80 and dataset.metadata["env"] == "lunarlander"


def test_a_refused_first_try_does_not_lock_the_folder(tmp_path, capsys):
    folder = tmp_path / "x"
    assert run("collect", folder, *HERE, "env.name=lunarlandr") == 1
    assert run("collect", folder, *HERE, "data.n_episodes=20") == 0
    assert TrajectoryDataset(folder / "dataset.npz").n_episodes == 20


def test_a_run_killed_before_its_first_file_goes_on_with_its_own_settings(tmp_path):
    folder = tmp_path / "x"
    assert run("collect", folder, *HERE, "data.n_episodes=21") == 0
    (folder / "dataset.npz").unlink()  # as if killed while it collected
    assert run("collect", folder) == 0
    assert TrajectoryDataset(folder / "dataset.npz").n_episodes == 21


def test_a_run_may_go_on_with_other_hardware(finished, capsys):
    assert run("train", finished, "n_threads=1", "device=auto") == 0
    assert run("train", finished, "device=cpu") == 0


def test_one_key_of_ray_leaves_the_others_as_they_were(tmp_path):
    folder = tmp_path / "x"
    first, _ = load_config([f"run_dir={folder}", "ray=cluster"])
    again, _ = load_config([f"run_dir={folder}", "ray.max_failures=20"])
    assert again.ray == {**first.ray, "max_failures": 20}
    assert again.ray.rollout_workers == 64


FEW = {
    "at least 19 calibration episodes, got 6": "calibration.alpha=0.05 needs at least 19",
    "5 episodes are too few for the shares": "5 episodes are too few",
}


@pytest.mark.parametrize(
    ("few", "said"),
    [
        (
            ["data.n_episodes=40", "calibration.alpha=0.05"],
            "at least 19 calibration episodes, got 6",
        ),
        (["data.n_episodes=5"], "5 episodes are too few for the shares"),
    ],
)
@pytest.mark.parametrize("command", ["run", "train"])
def test_too_few_episodes_are_refused_before_they_are_collected(
    tmp_path, capsys, command, few, said
):
    folder = tmp_path / "x"
    assert run(command, folder, *HERE, *few) == 1
    assert said in capsys.readouterr().err
    assert not (folder / "dataset.npz").exists()
    assert run("collect", folder, *HERE, *few) == 0  # what is collected only may be few
    collected = capsys.readouterr().out
    assert f"note: too few to train on: {FEW[said]}" in collected
    assert collected.count("dataset.npz") == 1 and f"wrote {folder / 'dataset.npz'}: " in collected
    assert run(command, folder, *HERE, *few) == 1
    assert said in capsys.readouterr().err and not (folder / "models").exists()


def test_devices_that_cannot_be_had_are_refused_before_collecting(tmp_path, capsys):
    assert run("run", tmp_path / "x", *HERE, "device=cuda:99") == 1
    assert not (tmp_path / "x" / "dataset.npz").exists()


def test_evaluate_asks_for_its_folder(capsys):
    assert main(["evaluate"]) == 1
    assert "evaluate needs run_dir=PATH, the folder of a trained run\n" in capsys.readouterr().err
    assert main(["evaluate", "runs/mine"]) == 1
    assert "did you mean run_dir=runs/mine?" in capsys.readouterr().err


def test_settings_that_were_typed_are_told_before_those_left_out(finished, capsys):
    assert run("train", finished, "seed=7") == 1
    assert "holds a run with other settings (seed is 42 there, 7 asked" in capsys.readouterr().err


def test_a_misspelt_folder_is_not_made_to_be_evaluated(tmp_path, capsys):
    assert main(["evaluate", f"run_dir={tmp_path / 'misspelt'}"]) == 1
    assert "misspelt: expected the folder of a trained run" in capsys.readouterr().err
    assert not (tmp_path / "misspelt").exists()


@pytest.mark.slow
def test_a_run_at_an_address_leaves_everything_there_and_goes_on_from_it(
    finished, tmp_path, capsys
):
    there = tmp_path / "shared" / "run"
    address = there.as_uri()
    assert run("train", address, *HERE, "shield=quantile") == 0
    trained = json.loads((there / "models" / "quantile.json").read_text())
    for path in (there / "models").glob("quantile.*"):
        path.unlink()  # as if killed before it was written
    before = {p: p.stat().st_mtime_ns for p in [there / "dataset.npz", there / "models/agent.pt"]}
    assert run("run", address) == 0
    assert {p: p.stat().st_mtime_ns for p in before} == before
    # down to the seconds of its epochs: nothing was trained again
    assert json.loads((there / "models" / "quantile.json").read_text()) == trained
    assert (there / "dataset.npz").read_bytes() == (finished / "dataset.npz").read_bytes()
    for name in ("agent", "quantile"):
        assert_same_weights(weights(there, name), weights(finished, name))
    for name in ("config.yaml", "report.html", "table.md", "figures/returns.png"):
        assert (there / name).stat().st_size > 0, name
    assert list((there / "tensorboard" / "agent").glob("events*"))
    assert run("run", address, *HERE, "seed=7") == 1
    output = capsys.readouterr()
    assert f"flowshield: {address} holds a run with other settings" in output.err
    assert output.out.splitlines()[-1].endswith(f"open {address}/report.html")
    told = [
        output.out,
        output.err,
        *(p.read_text() for p in there.glob("*.*") if p.suffix != ".npz"),
    ]
    assert not [text for text in told if "flowshield-" in text]  # the folder that it worked in


def test_a_dataset_at_an_address_is_used_where_it_is(finished, tmp_path, capsys):
    data = (finished / "dataset.npz").as_uri()
    settings = [o for o in HERE if not o.startswith("data.")]
    assert run("collect", tmp_path / "x", f"data.path={data}", *settings) == 0
    assert f"found {data}: 80 episodes" in capsys.readouterr().out
    assert run("collect", tmp_path / "y", f"data.path={data[:-4]}2.npz", *settings) == 1
    assert "dataset2.npz does not exist: check the path" in capsys.readouterr().err

"""What is asked of a run that was trained; its folder stays as it is."""

import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import TINY

from flowshield.cli import main
from flowshield.data import TrajectoryDataset
from flowshield.data.splitting import split_positions
from flowshield.envs import make_env
from flowshield.evaluation import run_episode
from flowshield.models import BaseShield, UDRLAgent
from flowshield.pipeline import TrainedRun

ROOT = Path(__file__).parents[1]
STATE = ["0.1", "1.2", "-1e-1", "-.4", "0", "2.5e-2", "0", "0"]


def cell(shield, command, mean, better=None):
    """A cell; with `better` the shield brings so much more in each of 20 episodes, else unknown."""
    base = mean if shield == "none" else None if better is None else mean
    return {
        "shield": shield,
        "command": command,
        "return_mean": mean,
        "return_high": mean,
        "returns": None if base is None else [base] * 20,
    }


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A run with two shields, by whose results the mixture is the better one."""
    place = tmp_path_factory.mktemp("somewhere") / "runs" / "mine"
    overrides = [*TINY, "data.n_episodes=60", "ray.num_workers=0", "shield=[quantile,mixture]"]
    assert main(["train", f"run_dir={place}", *overrides]) == 0
    cells = [cell("none", [200, 280], 250.0), cell("none", [1000, 280], -100.0)]
    cells += [cell("quantile", c["command"], 20.0) for c in cells[:2]]
    cells += [cell("mixture", [200, 280], 240.0, -10.0), cell("mixture", [1000, 280], 240.0, 340.0)]
    (place / "results.json").write_text(json.dumps({"cells": cells}))
    return place


def asked(capsys, place, *words):
    """The JSON that a question is answered with."""
    capsys.readouterr()
    assert main(["ask", str(place), *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out, parse_constant=pytest.fail)


def refused(capsys, *words, command="ask", code=2):
    """The one line with which a question, or another command, is refused."""
    capsys.readouterr()
    assert main([command, *map(str, words)]) == code
    out, error = capsys.readouterr()
    assert out == "" and error.startswith("flowshield: ") and error.count("\n") == 1
    return error


def test_explore_writes_one_file_of_what_was_asked_for(place, capsys):
    words = ["--episodes", "1", "--moments", "2", "--requests", "3"]
    assert main(["explore", str(place), *words]) == 0
    assert f"wrote {place / 'explorer.html'}" in capsys.readouterr().out
    html = (place / "explorer.html").read_text()
    payload = json.loads(re.search(r'id="data">(.*?)</script>', html, re.DOTALL)[1])
    (episode,) = payload["episodes"]
    assert len(episode["moments"]) == 2 and len(episode["moments"][0]["horizons"]) == 3
    assert [shield["name"] for shield in payload["shields"]] == ["quantile", "mixture"]
    assert payload["commands"][1] == "(1000, 280)"
    assert payload["opening"] == {"shield": 1, "preset": 1}  # the better, on what fails without it
    assert "requests: expected at least 2" in refused(
        capsys, place, "--requests", "1", command="explore"
    )
    assert "no run folder" in refused(capsys, place / "models", command="explore")
    (place / "explorer.html").unlink()


def test_an_explorer_needs_no_evaluation_but_none_that_is_damaged(place, tmp_path, capsys):
    shutil.copytree(place, tmp_path / "run")
    words = ["--episodes", "1", "--moments", "1", "--requests", "2"]
    (tmp_path / "run" / "results.json").write_text('{"cells": [{"command": 3}]}')
    said = refused(capsys, tmp_path / "run", *words, command="explore", code=1)
    assert "results.json: its cells are not those of an evaluation" in said
    (tmp_path / "run" / "results.json").unlink()
    assert main(["explore", str(tmp_path / "run"), *words]) == 0


def test_an_answer_takes_the_threads_that_the_run_is_given(place, capsys):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        asked(capsys, place, "--state", *STATE, "--command", "200", "280")
        assert torch.get_num_threads() == 1  # n_threads
    finally:
        torch.set_num_threads(before)


def test_the_answer_is_what_the_shield_says(place, capsys):
    shield = BaseShield.load(place / "models" / "quantile.pt")
    state = torch.tensor([[float(number) for number in STATE]])
    verdicts = set()
    for horizon, target in ((200.0, -120.0), (1000.0, 280.0), (60.0, -400.0)):
        words = ["--state", *STATE, "--command", str(horizon), str(target), "--shield", "quantile"]
        answer = asked(capsys, place, *words)
        command = torch.tensor([[horizon, target]])
        assert answer["supported"] is not bool(shield.is_ood(state, command))
        assert answer["score"] == pytest.approx(float(shield.score(state, command)))
        assert answer["threshold"] == pytest.approx(float(shield.threshold))
        assert answer["nearest"] == pytest.approx(shield.project(state, command)[0].tolist())
        ranges = answer["supported_returns"]
        assert ranges == [list(pair) for pair in shield.supported_returns(state, horizon)[0]]
        assert any(low <= target <= high for low, high in ranges) is answer["supported"]
        assert (answer["alpha"], answer["score_type"]) == (0.1, "density")
        verdicts.add(answer["supported"])
    assert verdicts == {True, False}


def test_the_state_of_an_episode_is_the_agents_own(place, capsys):
    agent = UDRLAgent.load(place / "models" / "agent.pt")
    words = ["--command", "1000", "280", "--seed", "3"]
    for step, follow in ((0, (200, 280)), (11, (200, 280)), (11, (50, -100))):
        followed = ["--follow", *map(str, follow)] if follow != (200, 280) else []
        answer = asked(capsys, place, *words, "--step", str(step), *followed)
        states = run_episode("lunarlander", agent, follow, seed=3).episode.states
        np.testing.assert_array_equal(np.float32(answer["state"]), states[step])
        assert answer["follows"] == list(follow)
    start, _ = make_env("lunarlander").reset(seed=3)
    np.testing.assert_array_equal(np.float32(asked(capsys, place, *words)["state"]), start)


def test_the_printed_state_asks_the_same_again(place, capsys):
    assert main(["ask", str(place), "--seed", "4", "--step", "9", "--command", "80", "-50"]) == 0
    printed = capsys.readouterr().out
    state = re.search(r"^state +(.*)$", printed, re.MULTILINE)[1].split()
    assert main(["ask", str(place), "--state", *state, "--command", "80", "-50"]) == 0
    again = capsys.readouterr().out.splitlines()
    assert again == [line for line in printed.splitlines() if "seed 4" not in line]
    names = "shield state command verdict bound score false nearest returns guard caution"
    assert [line.split()[0] for line in again] == names.split()


def test_the_shield_is_the_runs_best_unless_another_is_named(place, capsys):
    words = ["--state", *STATE, "--command", "200", "280"]
    best, named = asked(capsys, place, *words), asked(capsys, place, *words, "--shield", "quantile")
    assert (best["shield"], best["chosen"]) == ("mixture", "the run's best: fixes 1 of 1 failure")
    assert (named["shield"], named["chosen"]) == ("quantile", "named")


@pytest.mark.parametrize(
    ("means", "better", "said"),
    [
        ((-90.0, -95.0), (10.0, 5.0), "of 2, none of which fixes a failure; name another"),
        ((240.0, 239.0), (None, None), "of 2, none of which fixes a failure beyond chance; name"),
        ((240.0, 239.0), (340.0, 339.0), "one of 2 that are best alike: fixes 1 of 1 failure"),
        ((240.0, -95.0), (340.0, 5.0), "the run's best: fixes 1 of 1 failure"),
    ],
)
def test_why_that_shield_is_asked_is_said(place, means, better, said, monkeypatch):
    cells = [cell("none", [200, 280], 250.0), cell("none", [1000, 280], -100.0)]
    for shield, mean, paired in zip(("quantile", "mixture"), means, better, strict=True):
        cells.append(cell(shield, [1000, 280], mean, paired))
    monkeypatch.setattr("flowshield.pipeline.run_verdict.read_json", lambda _: {"cells": cells})
    name, why = TrainedRun(place).choice()
    assert name == "quantile" and why.startswith(said)


def test_where_nothing_fails_there_is_nothing_to_fix(place, monkeypatch):
    cells = [cell(shield, [200, 280], 250.0, 0.0) for shield in ("none", "quantile", "mixture")]
    monkeypatch.setattr("flowshield.pipeline.run_verdict.read_json", lambda _: {"cells": cells})
    assert "there is no failure to fix" in TrainedRun(place).choice().why


def test_a_state_beyond_the_data_is_named_by_its_number(place, capsys):
    states = TrajectoryDataset(place / "dataset.npz").states
    inside, outside = states[states[:, 1].argmax()].tolist(), states[17].tolist()
    outside[1], outside[5] = 9.0, float(np.nextafter(states[:, 5].min(), -np.inf))
    words = ["--command", "200", "280"]
    assert asked(capsys, place, "--state", *map(str, inside), *words)["outside"] == []
    found = asked(capsys, place, "--state", *map(str, outside), *words)["outside"]
    assert [far["component"] for far in found] == [1, 5]
    assert found[0]["high"] == pytest.approx(float(states[:, 1].max())) and found[0]["value"] == 9.0
    main(["ask", str(place), "--state", *map(str, outside), *words])
    out = capsys.readouterr().out
    assert "number 2, 9.00: no state of the data is beyond" in out
    assert out.count("(extrapolated)\n") == 2  # what is nearest, and what returns are supported


def test_a_command_that_is_provably_impossible_is_told_to_be(place, capsys):
    env = make_env("lunarlander")
    bound = float(env.return_bound(np.array([STATE], np.float32))[0])
    env.close()
    words = ["ask", str(place), "--state", *STATE, "--command", "200"]
    assert asked(capsys, place, *words[2:], "280")["bound"] == pytest.approx(bound)
    for target, impossible in ((bound - 1, False), (bound + 1, True)):
        assert main([*words, str(target)]) == 0
        (line,) = re.findall(r"^bound .*$", capsys.readouterr().out, re.MULTILINE)
        assert f"above {bound:.1f} from here" in line and ("IMPOSSIBLE" in line) == impossible


def test_what_is_not_there_to_compare_with_keeps_no_question_from_its_answer(
    place, tmp_path, capsys
):
    run = tmp_path / "run"
    shutil.copytree(place, run)
    words = ["--state", *STATE, "--command", "200", "280"]
    known = asked(capsys, run, *words)
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace("name: lunarlander", "name: not_here"))
    for damage in (lambda path: path.write_bytes(b"no dataset"), Path.unlink):
        damage(run / "dataset.npz")
        answer = asked(capsys, run, *words)
        assert answer["outside"] is answer["bound"] is None
        assert answer["score"] == known["score"]
    assert main(["ask", str(run), *words]) == 0
    assert "outside       not known: the run's dataset is not" in capsys.readouterr().out
    states = np.zeros((4, 3), np.float32)  # a dataset of something else
    flags = np.array([False, False, False, True])
    TrajectoryDataset.from_arrays(
        states=states, actions=states, rewards=flags.astype(float), terminated=flags
    ).save(run / "dataset.npz")
    assert asked(capsys, run, *words)["outside"] is None


def test_another_alpha_moves_the_threshold(place, capsys):
    words = ["--state", *STATE, "--command", "200", "280", "--shield", "mixture"]
    calibration = BaseShield.load(place / "models" / "mixture.pt").calibration
    answer = asked(capsys, place, *words, "--alpha", "0.4")
    assert answer["threshold"] == calibration.at(0.4).thresholds[0] > calibration.thresholds[0]
    assert "0.4" in answer["promise"]
    error = refused(capsys, place, *words, "--alpha", "0.001")
    assert "needs at least 999 calibration episodes, got 9" in error
    total = int(re.search(r"takes (\d+) episodes in all", error)[1])
    assert len(split_positions(total, TrainedRun(place).config.data.split, 0)["calibration"]) == 999


def test_an_answer_of_a_quick_run_says_that_it_is_a_first_look(place, tmp_path, capsys):
    words = ["--state", *STATE, "--command", "200", "280", "--shield", "mixture"]
    few = "a first look, nothing to decide by: 9 episodes to calibrate by"
    assert asked(capsys, place, *words)["first_look"] == few
    shutil.copytree(place, tmp_path / "run")
    (tmp_path / "run" / "results.json").unlink()
    assert asked(capsys, tmp_path / "run", *words)["first_look"] == f"{few}, not evaluated"
    cells = [{**cell("none", [200, 280], 250.0), "n_episodes": 10}]
    told = {"cells": cells, "dataset": {"splits": {"calibration": 45}}}
    (tmp_path / "run" / "results.json").write_text(json.dumps(told))
    assert main(["ask", str(tmp_path / "run"), *words]) == 0
    line = (
        "caution       a first look, nothing to decide by: 10 episodes a cell, 45 to calibrate by"
    )
    assert line in capsys.readouterr().out
    cells[0]["n_episodes"], told["dataset"]["splits"]["calibration"] = 100, 300
    (tmp_path / "run" / "results.json").write_text(json.dumps(told))
    assert asked(capsys, tmp_path / "run", *words)["first_look"] is None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--state", *STATE[:3]], "state: expected 8 numbers, got 3"),
        (["--state", "nan", *STATE[1:]], "state: expected finite numbers, got [nan"),
        (["--state", *STATE[1:], "-inf"], "state: expected finite numbers"),
        (["--state", *STATE, "--step", "2"], "--step and --follow go with --seed"),
        (["--seed", "0", "--shield", "mixtur"], "unknown shield 'mixtur': did you mean 'mixture'?"),
        (["--seed", "0", "--step", "5000"], "choose a step from 0 to"),
        (["--seed", "-1"], "at least 0, got -1"),
        (["--seed", "0", "--follow", "0", "3"], "horizon of at least 1 step"),
        (["--seed", "0", "--command", "200", "inf"], "command: expected finite numbers"),
        (["--seed", "0", "--command", "0.5", "10"], "at least 1 step, got 0.5"),
    ],
)
def test_what_cannot_be_asked_is_one_line_and_code_2(place, words, said, capsys):
    assert said in refused(capsys, place, "--command", "200", "280", *words)


def test_a_folder_that_is_no_run_or_does_not_say_which_shield_is_refused(place, tmp_path, capsys):
    words = ["--state", *STATE, "--command", "200", "280"]
    assert "is no run folder" in refused(capsys, tmp_path, *words)
    assert "is no run folder" in refused(capsys, tmp_path / "nowhere", *words)
    assert "is no run folder" in refused(capsys, place / "config.yaml", *words)
    assert "expected a path, got ''" in refused(capsys, "", *words)
    assert "expected a path, got ''" in refused(capsys, "", "command=[9,9]", command="film")
    assert "expected a path, got ''" in refused(capsys, "", command="explore")
    (tmp_path / "config.yaml").write_bytes((place / "config.yaml").read_bytes())
    for named, said in ((["--shield", "mixture"], "mixture"), ([], "quantile")):
        error = refused(capsys, tmp_path, *words, *named)
        assert f"no trained {said}: flowshield train run_dir={tmp_path}" in error
    shutil.copytree(place / "models", tmp_path / "models")
    error = refused(capsys, tmp_path, *words)
    assert "was not evaluated" in error and "name one of quantile, mixture" in error


def test_an_environment_that_is_not_known_here_is_code_2(place, tmp_path, capsys):
    shutil.copytree(place / "models", tmp_path / "models")
    config = (place / "config.yaml").read_text().replace("name: lunarlander", "name: my_own")
    (tmp_path / "config.yaml").write_text(config)
    words = ["--command", "200", "280", "--shield", "quantile"]
    told = "unknown environment 'my_own'"
    assert told in refused(capsys, tmp_path, "--seed", "3", *words)
    assert told in refused(capsys, tmp_path, "command=[9,9]", "shield=quantile", command="film")
    answer = asked(capsys, tmp_path, "--state", *STATE, *words)  # which needs none
    assert answer["bound"] is None


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("ask {} seed=3 'command=[200,280]'", "ask {} --seed 3 --command 200 280"),
        ("ask run_dir={} seed=3 'command=[50,-9]'", "ask {} --seed 3 --command 50 -9"),
        (
            "ask {} --seed 3 'command=[200,280]' shield=mixture",
            "ask {} --seed 3 --command 200 280 --shield mixture",
        ),
        ("film {} --seed 3 --command 9 -1", "film {} seed=3 'command=[9,-1]'"),
        ("film {} --command 9 1 --out=x.gif", "film {} 'command=[9,1]' out=x.gif"),
    ],
)
def test_the_style_of_the_other_command_is_told_as_it_is_typed_here(place, typed, meant, capsys):
    command, *words = shlex.split(typed.format(place))
    hint = refused(capsys, *words, command=command).strip().partition("; type ")[2]
    assert hint == f"flowshield {meant.format(place)}"
    if command == "ask":
        shield = [] if "--shield" in meant else ["--shield", "quantile"]
        assert main([*shlex.split(hint)[1:], *shield]) == 0


def test_a_run_folder_that_is_given_as_an_override_is_told_without_it(place, capsys):
    error = refused(capsys, f"run_dir={place}", command="explore")
    assert error.endswith(f"did you mean {place}?\n")


def test_asking_changes_nothing_in_the_folder(place, capsys):
    before = {path: path.stat().st_mtime_ns for path in place.rglob("*")}
    asked(capsys, place, "--seed", "0", "--command", "200", "280")
    assert {path: path.stat().st_mtime_ns for path in place.rglob("*")} == before


def test_every_block_of_the_guide_runs(place, capsys, monkeypatch):
    guide = (ROOT / "docs" / "guides" / "ask.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", guide, flags=re.DOTALL)
    assert len(blocks) == 4
    monkeypatch.chdir(place.parents[1])
    names = {}
    for block in blocks:
        exec(block, names)
    assert capsys.readouterr().out.splitlines()[-1].startswith("mixture ")
    documented = " ".join(re.findall(r"^\| (`[^|]*) \|", guide, flags=re.MULTILINE))
    (line,) = re.findall(r"```bash\nflowshield ask runs/mine (.*)\n", guide)
    words = line.replace("--step 40", "--step 4").split()
    assert asked(capsys, "runs/mine", *words).keys() == set(re.findall(r"`(\w+)`", documented))


def test_a_film_of_a_run_is_its_agents_with_its_best_shield(place, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    out = tmp_path / "lr=0.1, [ä]" / "film.gif"
    words = ["command=[1000,280]", "seed=3", "out=~/lr=0.1, [ä]/film.gif"]
    assert main(["film", str(place), *words]) == 0
    which, sure, *told = capsys.readouterr().out.splitlines()
    assert "caution: a first look, nothing to decide by: 9 episodes to calibrate by" in sure
    assert which.endswith("shield mixture (the run's best: fixes 1 of 1 failure)")
    agent = UDRLAgent.load(place / "models" / "agent.pt")
    shield = BaseShield.load(place / "models" / "mixture.pt")
    lengths = []
    for line, guard in zip(told, (None, shield), strict=False):
        played = run_episode("lunarlander", agent, (1000, 280), guard, seed=3)
        lengths.append(played.episode.length)
        end = f"{played.episode.total_return:z.1f}".replace("-", "−")
        assert f"after {played.episode.length} steps, return {end}" in line
        assert ("with the mixture shield" if guard else "without a shield") in line
        assert not guard or line.endswith(f"commands replaced: {played.flagged_steps}")
    assert f"wrote {out}: {-(-max(lengths) // 2) + 1} pictures of {max(lengths)} steps" in told[2]
    with Image.open(out) as gif:
        assert gif.size == (928, 480) and gif.n_frames > max(lengths) / 4


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "'command=[1000,280]' seed=3; got nothing"),
        (["command=[1000]"], "expected 'command=[H,R]' with two numbers"),
        (["command=[a,b]"], "expected 'command=[H,R]' with two numbers"),
        (["command=[0,3]"], "horizon of at least 1 step"),
        (["command=[9,.inf]"], "finite return"),
        (["command=[9,9]", "sead=3"], "unknown film setting 'sead': did you mean 'seed' or"),
        (["command=[9,9]", "seed"], "expected seed=VALUE"),
        (["command=[9,9]", "seed=-3"], "at least 0, got -3"),
        (["command=[9,9]", "seed=1.5"], "seed: expected a whole number"),
        (["command=[9,9]", "max_mb=0"], "max_mb: expected a number above 0"),
        (["command=[9,9]", "out=film.avi"], "*.gif or *.mp4, got 'film.avi'"),
        (["command=[9,9]", "shield=mixtur"], "did you mean 'mixture'?"),
    ],
)
def test_what_cannot_be_filmed_is_one_line_and_code_2(place, words, said, capsys):
    assert said in refused(capsys, place, *words, command="film")


def test_a_run_whose_environment_draws_nothing_is_not_filmed(place, tmp_path, capsys):
    shutil.copytree(place / "models", tmp_path / "models")
    config = (place / "config.yaml").read_text().replace("name: lunarlander", "name: gridworld")
    (tmp_path / "config.yaml").write_text(config)
    words = ["command=[9,9]", "shield=quantile"]
    said = refused(capsys, tmp_path, *words, command="film", code=1)
    assert "environment 'gridworld' cannot be filmed" in said


def test_what_draws_and_cannot_be_loaded_is_one_line(place, monkeypatch, capsys):
    def without_its_library(run, render_mode=None):  # as MuJoCo's without the system's OSMesa
        raise AttributeError("'NoneType' object has no attribute 'glGetError'")

    monkeypatch.setattr("flowshield.pipeline.TrainedRun.make_env", without_its_library)
    said = refused(capsys, place, "command=[9,9]", "shield=quantile", command="film", code=1)
    assert "environment 'lunarlander' cannot be filmed here: 'NoneType'" in said

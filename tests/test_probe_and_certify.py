"""The stages between training and evaluating, in a run of a small gridworld."""

import json
import shutil

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from flowshield.cli import main
from flowshield.data import TrajectoryDataset
from flowshield.evaluation.guarded_answer import ask_guard, guarded_lines
from flowshield.evaluation.summary import verdict_lines
from flowshield.models import OutcomeGuard, SupportGuard, UDRLAgent
from flowshield.models.outcome import weights_checksum
from flowshield.pipeline import TrainedRun

CERTIFICATE = ["certificate.n_episodes=30", "certificate.epsilon=0.5", "certificate.delta=0.5"]
TRAINED = [
    "env=gridworld",
    "env.commands=[[10,3],[20,8]]",
    "behaviour=random",
    "data.n_episodes=60",
    "calibration.alpha=0.2",
    "n_epochs=1",
    "shield_epochs=1",
    "model.hidden_dim=16",
    "shield=quantile",
    "device=cpu",
    "ray.num_workers=0",
]
MEASURED = [
    "evaluation.n_episodes=3",
    "evaluation.n_states=40",
    "evaluation.followed.n_starts=2",
    "evaluation.followed.n_commands=2",
    "evaluation.explorer.n_episodes=0",
    "probe.n_episodes=220",
    "probe.validation=0.5",
    "probe.n_steps=20",
    *CERTIFICATE,
]


def run(command, folder, *overrides):
    return main([command, f"run_dir={folder}", *overrides])


def results(folder):
    return json.loads((folder / "results.json").read_text())


def made(folder, *parts):
    """The bytes of what lies in these folders."""
    found = [path for part in parts for path in sorted((folder / part).rglob("*"))]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def times(folder, *parts):
    return {name: (folder / name).stat().st_mtime_ns for name in made(folder, *parts)}


def changed(before, folder, *parts):
    after = times(folder, *parts)
    return {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}


STAGES = ("probe", "certificates", "models")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "trained"
    assert run("train", folder, *TRAINED, *MEASURED) == 0
    return folder


@pytest.fixture(scope="module")
def finished(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "finished"
    shutil.copytree(trained, folder)
    assert run("run", folder) == 0
    return folder


@pytest.fixture
def copied(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "copied")


@pytest.fixture
def fresh(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "fresh")


def test_a_run_probes_certifies_and_says_so(finished):
    probes = sorted(path.name for path in (finished / "probe").iterdir())
    assert probes == [
        "certificate_00000.npz",
        "fit_00000.npz",
        "fit_00100.npz",
        "validation_00000.npz",
        "validation_00100.npz",
    ]
    sizes = [TrajectoryDataset(finished / "probe" / name).n_episodes for name in probes]
    assert sizes == [30, 100, 10, 100, 10]
    guard, content = results(finished)["guard"], results(finished)
    assert (guard["kind"], guard["intent"]) == ("outcome", "at_least")
    (certificate,) = guard["certificates"].values()
    assert certificate["n_episodes"] == 30 and guard["outcome"]["n_episodes"] == 30
    assert "settings" not in guard["outcome"]
    assert guard["return_range"] == certificate["return_range"]
    assert {"probe", "certify"} <= content["seconds"].keys()


def test_the_guard_of_a_finished_run_is_the_certified_one(finished):
    trained_run = TrainedRun(finished)
    guard = trained_run.guard("quantile")
    chosen = results(finished)["guard"]["certificates"]["quantile"]["chosen"]
    assert isinstance(guard, OutcomeGuard) and guard.rule == chosen
    guard.check_policy(trained_run.agent())


def test_the_stages_alone_make_what_the_run_makes(finished, fresh):
    assert run("probe", fresh) == 0
    assert made(fresh, "probe") == made(finished, "probe")
    assert not (fresh / "certificates").exists()
    assert run("certify", fresh) == 0
    assert made(fresh, *STAGES) == made(finished, *STAGES)
    assert run("evaluate", fresh) == 0
    for part in ("cells", "shields", "followed", "guard"):
        assert results(fresh)[part] == results(finished)[part]


@pytest.mark.parametrize(
    "lost",
    [
        ["probe/fit_00100.npz", "models/outcome.pt", "models/outcome.json", "certificates"],
        ["models/outcome.json", "certificates"],  # killed between the two files
        [
            "certificates/quantile.json",
            "certificates/quantile_2.json",
            "certificates/quantile_0.json",
        ],
        ["certificates/quantile.json"],
    ],
)
def test_what_a_kill_left_is_gone_on_with(finished, copied, lost):
    for name in lost:
        path = copied / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    before = times(copied, "probe")
    assert run("certify", copied) == 0
    assert made(copied, *STAGES) == made(finished, *STAGES)
    touched = changed(before, copied, "probe")
    assert touched == {name for name in lost if name.startswith("probe")}


def test_a_finished_run_measures_nothing_again(copied, capsys):
    before = times(copied, *STAGES, "cells", "followed", "shields")
    for command in ("probe", "certify", "evaluate"):
        assert run(command, copied) == 0
    assert not changed(before, copied, *STAGES, "cells", "followed", "shields")


def test_another_intent_measures_again_what_depends_on_it(copied):
    parts = (*STAGES, "cells", "followed", "shields")
    before = times(copied, *parts)
    assert run("evaluate", copied, "guard.intent=exact") == 0
    touched = changed(before, copied, *parts)
    assert touched and all(name.startswith(("certificates/", "cells/quantile")) for name in touched)
    assert {name for name in before if name.startswith("cells/quantile")} <= touched
    guard = results(copied)["guard"]
    exact = guard["certificates"]["quantile"]["intent"]
    assert exact == {"kind": guard["intent"], "step_cost": guard["step_cost"]}
    assert exact["kind"] == "exact" and exact["step_cost"] > 0


def test_a_finished_run_says_whether_its_guard_helps_and_harms(finished):
    content = results(finished)
    for cell in content["cells"]:
        assert len(cell["lengths"]) == len(cell["returns"])
        assert np.mean(cell["lengths"]) == pytest.approx(cell["length_mean"])
        if cell["shield"] == "none":
            assert cell["replaced"] is None
        else:  # a command was replaced in some episode exactly where it was at some step
            assert (cell["replaced"] > 0) == (cell["flagged_rate"] > 0)
    told = " ".join(verdict_lines(content))
    assert "Does the guard help?" in told and "Does the guard harm?" in told
    assert "certified" in told
    page = (finished / "report.html").read_text()
    assert "Predicted returns" in page and "Certificates" in page
    logged = EventAccumulator(str(finished / "tensorboard" / "evaluation")).Reload()
    found = {e.step: e.value for e in logged.Scalars("outcome/coverage")}
    for step, where in enumerate(("start", "later")):
        assert found[step] == pytest.approx(content["guard"]["outcome"]["coverage"][where]["rate"])


@pytest.mark.parametrize("kind", ["none", "support"])
def test_other_guards_need_no_probe(fresh, kind, capsys):
    assert run("evaluate", fresh, f"guard.kind={kind}", "certificate.n_episodes=1") == 0
    assert not (fresh / "probe").exists() and not (fresh / "certificates").exists()
    guarded = results(fresh)["guard"]
    assert (guarded["kind"], guarded["intent"], guarded["step_cost"]) == (kind, "at_least", 0.0)
    assert guarded["return_range"] > 0 and "certificates" not in guarded
    shields = {cell["shield"] for cell in results(fresh)["cells"]}
    assert shields == ({"none", "quantile"} if kind == "support" else {"none"})
    guard = TrainedRun(fresh).guard("quantile")
    assert guard is None if kind == "none" else isinstance(guard, SupportGuard)


def test_another_guard_measures_its_own_cells_and_nothing_else(copied):
    parts = (*STAGES, "cells", "followed", "shields")
    before = times(copied, *parts)
    assert run("evaluate", copied, "guard.kind=support") == 0
    assert changed(before, copied, *parts) == {
        name for name in before if name.startswith("cells/quantile")
    }
    between = times(copied, *parts)
    assert run("evaluate", copied, "guard.kind=none") == 0
    assert not changed(between, copied, *parts)


def test_more_episodes_extend_the_probe(copied):
    def probed(name):
        return TrajectoryDataset(copied / "probe" / name)

    before, first = times(copied, "probe"), probed("fit_00100.npz")
    outcome = (copied / "models" / "outcome.pt").read_bytes()
    assert run("probe", copied, "probe.n_episodes=260") == 0
    assert changed(before, copied, "probe") == {
        "probe/fit_00100.npz",  # which had 10 of 100 episodes
        "probe/validation_00100.npz",
    }
    assert probed("fit_00100.npz").n_episodes == 30
    steps = len(first)
    assert np.array_equal(first.states, probed("fit_00100.npz").states[:steps])
    assert (copied / "models" / "outcome.pt").read_bytes() != outcome
    assert run("certify", copied, "certificate.n_episodes=40") == 0
    assert probed("certificate_00000.npz").n_episodes == 40


def test_another_agent_is_probed_anew(copied, tmp_path):
    """As after models/agent.pt was deleted and trained again with other data."""
    agent = UDRLAgent.load(copied / "models" / "agent.pt")
    with torch.no_grad():
        next(agent.parameters()).add_(0.1)
    agent.save(copied / "models" / "agent.pt")
    before = times(copied, *STAGES)
    assert run("certify", copied) == 0
    touched = changed(before, copied, *STAGES)
    assert {name for name in before if name.startswith(("probe/", "models/outcome"))} <= touched
    assert "certificates/quantile.json" in touched
    guard = TrainedRun(copied).guard("quantile")
    assert guard.outcome.policy_checksum == weights_checksum(agent)


def test_a_policy_that_draws_its_actions_is_probed_as_one(copied):
    before = times(copied, "probe")
    assert run("probe", copied, "evaluation.deterministic=false") == 0
    assert changed(before, copied, "probe") == set(before)


@pytest.mark.parametrize(
    ("few", "said"),
    [
        ("certificate.n_episodes=1", "expected at least 2 certificate episodes"),
        ("probe.n_episodes=30", "expected a probe with at least 19 episodes for validation"),
        ("probe.validation=0.999", "and 2 to fit to"),
    ],
)
def test_too_few_episodes_are_refused_before_any_work(tmp_path, fresh, capsys, few, said):
    folder = tmp_path / "new"
    assert run("run", folder, *TRAINED, *MEASURED, few) == 1
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert not (folder / "dataset.npz").exists()
    for command in ("certify", "evaluate"):
        assert run(command, fresh, few) == 1
        assert said in capsys.readouterr().err
    assert not (fresh / "probe").exists()
    assert run("run", folder, *TRAINED, *MEASURED, few, "guard.kind=none") == 0


def test_an_older_run_is_asked_and_evaluated(fresh, capsys):
    config = OmegaConf.load(fresh / "config.yaml")
    for section in ("guard", "probe", "certificate"):
        del config[section]
    OmegaConf.save(config, fresh / "config.yaml")
    assert main(["ask", str(fresh), "--command", "10", "3", "--seed", "1"]) == 0
    assert run("evaluate", fresh, *MEASURED[5:]) == 0
    assert results(fresh)["guard"]["kind"] == "outcome"


@pytest.mark.parametrize("command", [[10.0, 3.0], [20.0, 8.0], [3.0, 50.0]])
def test_ask_tells_what_the_policy_gets_and_what_the_guard_does(finished, capsys, command):
    words = ["ask", str(finished), "--seed", "1", "--command", *map(str, command)]
    capsys.readouterr()
    assert main([*words, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    trained = TrainedRun(finished)
    guard, told = trained.guard("quantile"), answer["guard"]
    state, request = torch.tensor([answer["state"]]), torch.tensor([command])
    decision = guard.decide(state, request, request)
    assert told["carried_out"] == pytest.approx(decision.command[0].tolist())
    assert told["replaced"] == bool(decision.replaced)
    pairs = (("predicted", request), ("predicted_carried_out", decision.command))
    for name, asked in pairs:
        outcome = guard.outcome.predict(state, asked)
        for key in ("mean", "low", "high", "steps"):
            assert told[name][key] == pytest.approx(float(getattr(outcome, key)))
    assert main(words) == 0
    text = capsys.readouterr().out
    done = "replaced by return" if told["replaced"] else "carried out as it is"
    assert f"guard         {done}" in text and told["certificate"] in text
    low, high = (f"{told['predicted'][end]:.1f}".replace("-", "−") for end in ("low", "high"))
    assert f"gets {low} to {high}" in text


def test_what_is_told_of_a_replaced_command(finished):
    trained = TrainedRun(finished)
    guard = trained.guard("quantile").with_rule(0.0)
    start, _ = trained.make_env().reset(seed=1)
    grid = torch.cartesian_prod(torch.arange(1.0, 40.0, 3.0), torch.arange(-10.0, 12.0, 2.0))
    states = torch.tensor(start).expand(len(grid), -1)
    command = grid[guard.decide(states, grid, grid).replaced][0].tolist()
    told = ask_guard(guard, trained.certificate("quantile"), start.tolist(), command)
    state, request = torch.tensor(start).unsqueeze(0), torch.tensor([command])
    chosen = guard.decide(state, request, request).command
    assert told.replaced and told.carried_out == tuple(chosen[0].tolist()) != tuple(command)
    here, there = (guard.outcome.predict(state, asked) for asked in (request, chosen))
    assert told.predicted.mean == pytest.approx(float(here.mean))
    assert told.predicted_carried_out.mean == pytest.approx(float(there.mean))
    assert told.predicted != told.predicted_carried_out
    policy, done, _ = guarded_lines(told, 1)
    ends = [f"{float(end):.1f}".replace("-", "−") for end in (there.low, there.high)]
    assert done[1].startswith("replaced by return ") and f"gets {' to '.join(ends)}" in done[1]
    assert policy[1].startswith("asked for this, it gets ") and done[1] != policy[1]


def test_ask_predicts_nothing_of_another_agent(copied, capsys):
    agent = UDRLAgent.load(copied / "models" / "agent.pt")
    with torch.no_grad():
        next(agent.parameters()).add_(0.1)
    agent.save(copied / "models" / "agent.pt")
    capsys.readouterr()
    assert main(["ask", str(copied), "--seed", "1", "--command", "10", "3", "--json"]) == 0
    guard = json.loads(capsys.readouterr().out)["guard"]
    assert "expected the policy that the outcome model was fitted to" in guard["reason"]


def test_ask_says_why_nothing_is_predicted(fresh, capsys):
    words = ["ask", str(fresh), "--command", "10", "3", "--seed", "1"]
    capsys.readouterr()
    assert main([*words, "--json"]) == 0
    reason = json.loads(capsys.readouterr().out)["guard"]["reason"]
    assert reason.startswith("not known: ") and "flowshield certify run_dir=" in reason
    assert main(words) == 0 and f"guard         {reason}" in capsys.readouterr().out


def test_a_run_that_was_not_certified_says_what_makes_a_guard(fresh):
    from flowshield.errors import UsageError

    with pytest.raises(UsageError, match=r"no certificate of quantile: flowshield certify run_dir"):
        TrainedRun(fresh).guard("quantile")
    with pytest.raises(UsageError, match=r"was not probed: flowshield probe run_dir="):
        TrainedRun(fresh).outcome()


@pytest.mark.parametrize("command", ["probe", "certify"])
def test_the_stages_ask_for_a_trained_run(command, tmp_path, capsys):
    assert main([command]) == 1
    assert f"{command} needs run_dir=PATH, the folder of a trained run\n" in capsys.readouterr().err
    assert run(command, tmp_path / "misspelt") == 1
    assert "expected the folder of a trained run" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert run(command, tmp_path / "empty", *TRAINED, *MEASURED) == 1
    assert "collect and train first" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["probe", "certify"])
def test_an_environment_that_does_not_fit_is_one_clear_error(fresh, capsys, command):
    config = (fresh / "config.yaml").read_text()
    for name, said in (("elsewhere", "elsewhere"), ("pendulum", "choose the data's environment")):
        (fresh / "config.yaml").write_text(config.replace("name: gridworld", f"name: {name}"))
        assert run(command, fresh) == 1
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1, error
        assert not (fresh / "probe").exists()


def test_where_all_returns_are_equal_nothing_is_certified_and_nothing_replaced(fresh, capsys):
    with np.load(fresh / "dataset.npz") as file:
        arrays = dict(file)
    np.savez(fresh / "dataset.npz", **{**arrays, "rewards": np.zeros_like(arrays["rewards"])})
    assert run("evaluate", fresh) == 0
    assert "all returns of the data are equal" in capsys.readouterr().out
    guarded = results(fresh)["guard"]
    assert (guarded["kind"], guarded["return_range"]) == ("none", 0.0)
    assert {cell["shield"] for cell in results(fresh)["cells"]} == {"none"}

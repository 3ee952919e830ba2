"""The benchmark of achievability in its quick form: it runs, resumes, and its numbers agree."""

import importlib
import json
import math

import numpy as np
import pytest
import torch

from flowshield.envs import make_env


@pytest.fixture(scope="module")
def finished(benchmark, tmp_path_factory):
    """The folder of a quick run in this process."""
    folder = tmp_path_factory.mktemp("achievability")
    assert benchmark.main(["--out", str(folder), "--quick"]) == 0
    return folder


def results(folder):
    return json.loads((folder / "results.json").read_text())


def without_times(value):
    """A record without what differs between two runs of the same thing."""
    if isinstance(value, dict):
        return {k: without_times(v) for k, v in value.items() if "seconds" not in k}
    return [without_times(v) for v in value] if isinstance(value, list) else value


@pytest.mark.slow
def test_every_part_gives_results_and_tables(finished):
    found = results(finished)
    parts = {"data", "train", "detection", "calibration", "projection", "latency", "behaviour"}
    assert all(found["results"][part] for part in parts)
    tables = (finished / "tables.md").read_text()
    for words in ("training seed 42 only", "--quick", "random test states", "fresh episodes"):
        assert words in tables
    for name in ("results.json", "tables.md"):  # they are to be shown: no folder of this machine
        assert str(finished) not in (finished / name).read_text()
    assert {path.name for path in (finished / "figures").iterdir()} >= {"detection.png"}


@pytest.mark.slow
def test_every_model_is_judged_on_every_rung(benchmark, finished):
    settings = importlib.import_module("protocol.settings").quick()
    names = importlib.import_module("protocol.contenders").names(settings)
    records = results(finished)["results"]["detection"]
    assert {record["key"][3] for record in records} == set(names)
    for record in records:
        random = [rung for rung in record["rungs"] if rung["where"] == "random"]
        assert [rung["distance"] for rung in random] == [0, 5, 10, 20, 40, 80]
        assert all(0 <= rung["auroc"] <= 1 and rung["n"] == 100 for rung in random)
        assert len({rung["false_alarms"] for rung in random}) == 1  # the same true commands


@pytest.mark.slow
def test_a_second_call_does_nothing_and_a_lost_part_is_redone_equal(benchmark, finished, capsys):
    before = {p: p.stat().st_mtime_ns for p in (finished / "parts").rglob("*.json")}
    assert benchmark.main(["--out", str(finished), "--quick"]) == 0
    assert {p: p.stat().st_mtime_ns for p in (finished / "parts").rglob("*.json")} == before
    assert "done" not in capsys.readouterr().out.partition("# Achievability")[0]

    parts = finished / "parts"
    lost = [parts / "detection/expert/42_box.json", parts / "train/geometric_chain/42_mixture.json"]
    made_of_it = parts / "known/geometric_chain/42_mixture.json"
    old = [json.loads(path.read_text()) for path in (*lost, made_of_it)]
    for path in lost:
        path.unlink()
    assert benchmark.main(["--out", str(finished), "--quick"]) == 0
    new = [json.loads(path.read_text()) for path in (*lost, made_of_it)]
    assert without_times(new) == without_times(old)
    changed = {path for path, time in before.items() if path.stat().st_mtime_ns != time}
    assert changed == {*lost, made_of_it}


def test_a_folder_of_other_settings_is_refused(benchmark, tmp_path, capsys):
    (tmp_path / "settings.json").write_text(json.dumps({"n_episodes": 1}))
    assert benchmark.main(["--out", str(tmp_path), "--quick"]) == 2
    assert "choose another --out" in capsys.readouterr().out


def test_a_peer_gets_the_seconds_that_were_asked_for(benchmark):
    options = benchmark._arguments(["--out", "x", "--quick", "--peer-seconds", "7"])
    assert benchmark._settings(options).peer_seconds == 7.0


def test_unknown_parts_are_refused(benchmark, tmp_path, capsys):
    with pytest.raises(SystemExit):
        benchmark.main(["--out", str(tmp_path), "--parts", "detection,typo"])
    assert "unknown typo" in capsys.readouterr().err


def test_intervals_over_seeds_are_students(benchmark):
    mean = importlib.import_module("protocol.aggregate").mean_over_seeds([1.0, 2.0, 3.0, None])
    assert mean.value == 2.0
    assert math.isclose(mean.half_width, 4.302652729911275 / math.sqrt(3))


def test_a_promise_kept_in_the_mean_is_called_kept(benchmark):
    """Uniform scores: the count of alarms lies in the promised band in about 95% of draws."""
    calibration = importlib.import_module("protocol.calibration")
    rng = np.random.default_rng(0)
    kept = []
    for _ in range(300):
        threshold = np.sort(rng.uniform(size=199))[9]  # k = floor(0.05 * 200) = 10
        count = int((rng.uniform(size=500) < threshold).sum())
        kept.append(calibration.rate_record(count, 500, 0.05, 199)["promised"])
    assert 0.91 <= np.mean(kept) <= 1.0


def test_rungs_ask_for_what_nobody_can_fulfil(benchmark, landings):
    rungs = importlib.import_module("protocol.rungs").questions(landings, 50, seed=0)
    env = make_env("lunarlander")
    for rung in rungs:
        true, states = landings.commands[rung.steps], landings.states[rung.steps]
        bound = env.return_bound(states)
        assert (true[:, 1] <= bound).all()
        if rung.where == "half":
            assert (
                landings.episode_returns[np.isin(landings.episode_starts, rung.steps)] > 250
            ).all()
            np.testing.assert_allclose(rung.commands, true * [rung.distance, 1.0])
        else:
            np.testing.assert_allclose(rung.commands[:, 1], bound + rung.distance, rtol=1e-6)
            np.testing.assert_array_equal(rung.commands[:, 0], true[:, 0])
        if rung.where == "tight":
            assert (bound - true[:, 1] < 10).all()
    assert {rung.where for rung in rungs} == {"random", "start", "tight", "half"}


def test_brute_force_finds_the_nearest_border_of_a_box(benchmark, landings):
    """Where the supported commands are a box, the nearest one is known: the clamp."""
    search = importlib.import_module("protocol.search")
    box = importlib.import_module("controls").make_control("box", landings)
    box.calibrate(landings, alpha=0.3)
    box.projection = box.projection._replace(horizon_weight=1.0)
    state = torch.as_tensor(landings.states[:1])
    low, high = (torch.as_tensor(f(landings.commands, axis=0)) for f in (np.min, np.max))
    least = float(box.limits(state))
    for request in ([50.0, 500.0], [600.0, 100.0], [900.0, 400.0]):
        command = torch.tensor([request])
        exact = box.project_in_detail(state, command)
        assert exact.supported and exact.changed
        found = search.nearest_on_grid(box, state, command, least, [(low, high)])
        assert found == pytest.approx(float(exact.distance), rel=0.02)


def test_returns_are_paired_start_by_start(benchmark):
    Key = importlib.import_module("protocol.store").Key
    paired = importlib.import_module("protocol.aggregate").paired_returns
    key = Key("behaviour", "mixed", 1, "none", "1_2")
    records = {
        key: {"returns": [0.0, 100.0, 50.0]},
        key._replace(model="flow"): {"returns": [5.0, 105.0, 55.0]},
        key._replace(seed=2): {"returns": [0.0, 0.0, 0.0]},
        key._replace(seed=2, model="flow"): {"returns": [7.0, 7.0, 7.0]},
        key._replace(seed=3, model="flow"): {"returns": [9.0, 9.0, 9.0]},  # nothing to pair with
    }
    found = paired(records, "mixed", "flow", "1_2")
    assert (found.mean, found.low, found.high) == (6.0, 6.0, 6.0)
    assert paired(records, "mixed", "mixture", "1_2") is None


def _write(context, key):
    path = context.folder / key.model
    path.write_text(str(key.seed))
    return {"read": [p.name for p in sorted(context.folder.iterdir()) if p.is_file()]}


def _fail(context, key):
    raise ValueError("not today")


@pytest.mark.parametrize("jobs", [1, 2])
def test_tasks_wait_for_what_they_need_and_one_failure_costs_only_its_own(
    benchmark, tmp_path, jobs
):
    schedule = importlib.import_module("protocol.schedule")
    Key = importlib.import_module("protocol.store").Key
    Settings = importlib.import_module("protocol.settings").Settings
    a, b, c, d, e = (Key("part", "data", 0, name) for name in "abcde")
    tasks = [
        schedule.Task(a, _write),
        schedule.Task(b, _write, needs=(a,), alone=True),
        schedule.Task(c, _fail),
        schedule.Task(d, _write, needs=(c,)),
        schedule.Task(e, _write, needs=(b,)),
    ]
    context = schedule.Context(Settings(), tmp_path)
    failed = schedule.run_tasks(tasks, context, jobs, lambda line: None)
    assert set(failed) == {c, d} and "not today" in failed[c] and "part data c" in failed[d]
    assert context.store.load(b)["read"] == ["a", "b"]
    assert context.store.load(e)["read"] == ["a", "b", "e"]

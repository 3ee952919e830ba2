"""Tables of the benchmark of achievability from records that are known."""

import dataclasses
import importlib
import json
import math

import pytest


def module(name):
    return importlib.import_module(f"protocol.{name}")


def cell(value):
    return {
        "return_mean": value,
        "worst_5_percent": value - 50.0,
        "crash_rate": 0.25,
        "returns": [value, value],
        "crashed": [0, 0],
    }


def rate(value, alpha, unit="step", covered=True):
    return {
        **{"unit": unit, "groups": 1, "group": 0, "shared": False, "alpha": alpha},
        **{"rate": value, "low": 0.0, "high": 1.0, "covered": covered, "promised": True},
    }


@pytest.fixture
def context(benchmark, tmp_path):
    """Behaviour of three seeds, one of them of "clip" only, and calibration, on file."""
    settings = dataclasses.replace(
        module("settings").quick(), datasets=("mixed",), seeds=(1, 2), commands=((200.0, 280.0),)
    )
    context = module("schedule").Context(settings, tmp_path)
    Key = module("store").Key
    for seed, value in ((1, 100.0), (2, 110.0), (3, 900.0)):
        key = Key("behaviour", "mixed", seed, "none", "200_280")
        context.store.save(key, cell(value))
        context.store.save(key._replace(model="mixture"), cell(2 * value))
        rows = {"rows": [rate(0.04 + seed / 100, 0.05)], "starts": {"rate": 0.1}}
        context.store.save(Key("calibration", "mixed", seed, "mixture"), rows)
        scored = {"rows": [rate(0.5, 0.05)], "starts": {"rate": 0.1}}
        context.store.save(Key("calibration", "mixed", seed, "mixture", "achievability"), scored)
    return context


def report(context, parts=("behaviour", "calibration")):
    return module("report").write_report(context, parts, "python benchmarks/achievability.py")


def section(text, words):
    (found,) = [part for part in text.split("### ")[1:] if part.startswith(words)]
    return found


def test_a_table_is_made_from_what_the_call_asked_for_and_names_its_seeds(context):
    short = section(report(context), "In short: mixed, return")
    assert "| no shield | 105 ±64, 25% |" in short and "| mixture | 210 ±127, 25% |" in short
    assert "training seeds 1, 2;" in short

    one = dataclasses.replace(context.settings, seeds=(3,), shields=())
    short = section(report(dataclasses.replace(context, settings=one)), "In short: mixed, return")
    assert "| no shield | 900, 25% |" in short and "mixture" not in short
    assert "training seed 3 only;" in short


def test_parts_that_were_not_asked_for_are_left_out_of_every_file(context):
    text = report(context, ["behaviour"])
    assert "false alarms" not in text
    found = json.loads((context.folder / "results.json").read_text())
    assert found["results"]["behaviour"] and not found["results"]["calibration"]
    assert {record["key"][2] for record in found["results"]["behaviour"]} == {1, 2}
    assert not any({"returns", "crashed"} & set(r) for r in found["results"]["behaviour"])


def test_rates_are_pooled_over_seeds_and_scores_are_kept_apart(context):
    text = report(context)
    pooled = section(text, "mixed: realised false alarms on fresh episodes, mean")
    assert "| mixture | one random step | – | 5.5% ±6.4, within | – |" in pooled
    assert (
        "| mixture (achievability) | one random step | – | 50.0% (all equal), NOT within |"
        in pooled
    )
    assert "whole episode" not in pooled  # nothing was measured of it


def test_a_few_missing_intervals_are_chances_own(benchmark):
    left_out = module("demands").left_out
    most = left_out("", [True] * 34 + [False] * 2)
    assert most.met and most.found == "34 of 36; chance alone leaves out about 1.8, seldom over 4"
    assert not left_out("", [True] * 31 + [False] * 5).met
    assert left_out("", []).found == ""


def test_each_path_is_held_to_the_latency_asked_for_and_said_to_be_one_seed(context):
    both = {"check": {"p50": 3.0, "p99": 4.0}, "projection": None}
    fast = {"check": {"p50": 1.0, "p99": 4.0}, "projection": {"p50": 5.0, "p99": 6.0}}
    error = {"median": 0.01, "p95": 0.1, "largest": 0.2, "tolerance": 1e-8}  # an older record
    record = {"eager": both, "compiled": fast, "throughput": {"cpu": 10.0}, "density_error": error}
    context.store.save(module("store").Key("latency", "mixed", 1, "flow_matching"), record)
    text = report(context, ["latency"])
    demands = section(text, "What must be shown")
    assert (
        "| check at batch 1, eager, p50 at most 2 ms | flow_matching 3 (one seed) | NO |" in demands
    )
    assert (
        "| check at batch 1, compiled, p50 at most 2 ms | flow_matching 1 (one seed) | yes |"
        in demands
    )
    short = section(text, "In short: one decision")
    assert "| flow_matching, eager | 3.00 | – | 0.01 | – |" in short
    assert "| flow_matching, compiled | 1.00 | 5.00 | 0.01 | – |" in short


def test_a_frontier_that_is_right_in_the_mean_only_is_not_called_right(context):
    frontier = {"error": 0.2, "error_worst": 3.0, "within_step": 0.9}
    names = ("frontier", "frontier_dequantized", "frontier_perfect")
    record = {f"{name}_{word}": value for name in names for word, value in frontier.items()}
    record |= {"excess_nll": 0.01, "auroc": 0.8, "auroc_bayes": 0.8}
    settings = dataclasses.replace(context.settings, known=("gridworld",))
    context = dataclasses.replace(context, settings=settings)
    for seed in (1, 2):
        key = module("store").Key("known", "gridworld", seed, "mixture")
        context.store.save(key, record)
    demands = section(report(context, ["known"]), "What must be shown").splitlines()
    mean, every = (line for line in demands if "frontier" in line or "the same at" in line)
    assert "mixture 0.2 (all equal) |" in mean and mean.endswith("| yes |")
    assert "mixture 0.9 (all equal) of them, worst 3" in every and every.endswith("| NO |")


def test_searches_weigh_by_their_requests(benchmark):
    of_search = module("readings").of_search
    record = {"search": {"a": {"n": 3, "ratio_floored": 1.0}, "b": {"n": 1, "ratio_floored": 2.0}}}
    assert of_search(record, "ratio_floored") == 1.25
    assert of_search({"search": {"a": {"n": 3, "ratio": 1.0}}}, "ratio_floored") is None


def test_a_single_seed_has_no_interval_to_hold_anything(benchmark):
    mean_over_seeds = module("aggregate").mean_over_seeds
    assert mean_over_seeds([0.05]).holds(0.05) is None
    assert math.isnan(mean_over_seeds([0.05]).half_width)
    assert mean_over_seeds([0.04, 0.06]).holds(0.05) and not mean_over_seeds([1, 1.01]).holds(0.05)


def test_the_command_tells_no_folder_of_this_machine(benchmark, tmp_path):
    out = tmp_path / "here"
    for words in (["--out", str(out), "--quick"], [f"--out={out}", "--quick"]):
        told = benchmark._command(words, out)
        assert str(tmp_path) not in told and "here" in told and told.endswith("--quick")

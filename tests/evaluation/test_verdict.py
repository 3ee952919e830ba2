import pytest

from flowshield.evaluation.cell_grid import CellGrid
from flowshield.evaluation.summary import summarize
from flowshield.evaluation.verdict import judge


def cell(shield, command, mean, crashes=0, half=2.0, n=100):
    """A cell of n episodes, of which the first ones crash; its returns scatter with a shield.

    So a mean differs beyond chance from the one without a shield where it does by more than 4.
    """
    scatter = 0.0 if shield == "none" else 20.0
    return {
        "shield": shield,
        "command": command,
        "n_episodes": n,
        "return_mean": mean,
        "return_low": mean - half,
        "return_high": mean + half,
        "crash_rate": None if crashes is None else crashes / n,
        "crashed": None if crashes is None else [k < crashes for k in range(n)],
        "returns": [mean + scatter * (-1) ** k for k in range(n)],
    }


def verdict(*cells):
    return judge(CellGrid.from_cells(cells))


def test_failures_and_fixes_of_measured_data(results):
    found = judge(CellGrid.from_cells(results["cells"]))
    assert found.failures == ((10, 500), (300, 400), (1000, 280))
    assert found.reference == 282.0 and found.n_commands == 6
    best, other = found.shields
    assert best.shield == "flow_matching" and best.fixed == found.failures
    assert best.unfixed == best.broken == ()
    assert other.shield == "quantile" and other.fixed == ((300, 400),)


def test_the_rule_is_told_with_the_numbers_that_it_was_applied_with(results):
    told = " ".join(map(str, summarize(results, CellGrid.from_cells(results["cells"]))))
    assert "even the upper end" in told
    assert "the best cell without a shield (282.0) by more than 5% of that cell (14.1)" in told


def test_asking_for_little_and_getting_it_is_no_failure():
    found = verdict(cell("none", (200, 280), 285.0), cell("none", (200, 50), 48.0))
    assert found.failures == ()


def test_asking_for_the_impossible_and_getting_the_best_is_no_failure():
    assert verdict(cell("none", (200, 280), 285.0), cell("none", (9, 999), 284.0)).failures == ()


def test_crashes_alone_are_a_failure_where_chance_does_not_explain_more_than_two_in_a_hundred():
    # the exact interval of 5 in 100 begins at 1.6%, of 6 at 2.2%, of 2 in 10 at 2.5%
    for crashes, n, fails in ((5, 100, False), (6, 100, True), (1, 10, False), (2, 10, True)):
        found = verdict(cell("none", (200, 280), 285.0, crashes, n=n))
        assert found.failures == (((200, 280),) if fails else ())
    assert verdict(cell("none", (200, 280), 285.0, None)).failures == ()


def test_a_shortfall_within_the_interval_is_not_held_against_it():
    base = cell("none", (200, 280), 280.0)
    assert verdict(base, cell("none", (10, 500), 250.0, half=20.0)).failures == ()
    assert verdict(base, cell("none", (10, 500), 250.0, half=10.0)).failures == ((10, 500),)


def test_negative_returns_are_judged_by_their_size():
    found = verdict(cell("none", (200, -150), -150.0), cell("none", (200, -100), -400.0))
    assert found.reference == -150.0 and found.failures == ((200, -100),)


def test_a_shield_that_breaks_a_good_command_comes_after_one_that_does_not():
    found = verdict(
        cell("none", (200, 280), 280.0),
        cell("none", (10, 500), 0.0),
        cell("bad", (200, 280), 10.0),
        cell("bad", (10, 500), 280.0),
        cell("good", (200, 280), 270.0),
        cell("good", (10, 500), 270.0),
    )
    assert [shield.shield for shield in found.shields] == ["good", "bad"]
    assert found.shields[1].broken == ((200, 280),)
    assert [shield.shield for shield in found.best] == ["good"]


def test_what_may_be_chance_is_neither_fixed_nor_broken():
    found = verdict(
        cell("none", (200, 280), 280.0, 5),
        cell("none", (10, 500), 278.0, 6),
        cell("quantile", (200, 280), 280.0, 6),
        cell("quantile", (10, 500), 280.0, 5),
    )
    assert found.failures == ((10, 500),)
    (only,) = found.shields
    assert only.fixed == only.broken == only.unfixed == () and only.unsure == ((10, 500),)
    assert found.best == ()


def test_crashes_that_differ_beyond_chance_fix_and_break_whatever_the_returns():
    found = verdict(
        cell("none", (200, 280), 280.0, 0),
        cell("none", (10, 500), 280.0, 20),
        cell("quantile", (200, 280), 280.0, 20),
        cell("quantile", (10, 500), 280.0, 1),
    )
    (only,) = found.shields
    assert only.fixed == ((10, 500),) and only.broken == ((200, 280),)


def test_shields_that_only_a_mean_return_tells_apart_are_named_together():
    cells = [cell("none", (200, 280), 280.0), cell("none", (10, 500), 0.0)]
    for shield, mean in (("a", 270.0), ("b", 279.0), ("c", 0.0)):
        cells += [cell(shield, (200, 280), 280.0)]
        cells += [cell(shield, (10, 500), mean)]
    assert [shield.shield for shield in verdict(*cells).best] == ["b", "a"]
    fix = summarize({}, CellGrid.from_cells(cells))[3]
    assert fix.answer == "b and a alike: 1 of 1" and fix.tone == "good"
    assert "c fixes 0 of 1" in fix.detail


def test_a_failure_that_a_shield_makes_worse_is_harm():
    cells = [cell("none", (200, 280), 280.0), cell("none", (10, 500), 180.0, 20)]
    for shield, mean, crashes in (("bad", 90.0, 70), ("idle", 181.0, 20)):
        cells += [cell(shield, (200, 280), 280.0)]
        cells += [cell(shield, (10, 500), mean, crashes)]
    found = verdict(*cells)
    assert [shield.shield for shield in found.shields] == ["idle", "bad"]
    assert found.shields[1].worsened == ((10, 500),) and found.shields[0].worsened == ()
    fix = summarize({}, CellGrid.from_cells(cells))[3]
    assert fix.answer == "none of them; bad does harm"
    assert "bad fixes 0 of 1, but worsens 1." in fix.detail


@pytest.mark.parametrize(
    ("shields", "said"),
    [
        ([("bad", 90.0, 70)], "bad does not, and does harm"),
        ([("idle", 181.0, 20)], "idle does not"),
        ([("idle", 181.0, 20), ("lame", 181.0, 20)], "none of them"),
        ([("bad", 90.0, 70), ("idle", 181.0, 20)], "none of them; bad does harm"),
        ([("bad", 90.0, 70), ("evil", 90.0, 70)], "none of them; some do harm"),
    ],
)
def test_one_shield_is_not_spoken_of_as_several(shields, said):
    cells = [cell("none", (200, 280), 280.0), cell("none", (10, 500), 180.0, 20)]
    for shield, mean, crashes in shields:
        cells += [cell(shield, (200, 280), 280.0), cell(shield, (10, 500), mean, crashes)]
    assert summarize({}, CellGrid.from_cells(cells))[3].answer == said


@pytest.mark.parametrize(
    ("n_failing", "said"),
    [
        (0, "none of 2 commands is shown to fail without a shield"),
        (1, "yes: 1 of 2 commands fails without a shield"),
        (2, "yes: 2 of 2 commands fail without a shield"),
    ],
)
def test_one_failure_is_not_spoken_of_as_several(n_failing, said):
    crashes = [50] * n_failing + [0] * (2 - n_failing)
    cells = [cell("none", (10 * i, 280), 280.0, n) for i, n in enumerate(crashes, start=1)]
    assert summarize({}, CellGrid.from_cells(cells))[2].answer == said


def test_an_interval_of_no_width_is_told_as_equal_values():
    cells = [cell("none", (200, 280), 280.0), cell("none", (10, 500), 1.0, half=0.0, n=10)]
    detail = summarize({}, CellGrid.from_cells(cells))[2].detail
    assert "(10, 500) returns 1 (all 10 equal), 0% crash (0% to 31%)" in detail


def test_few_calibration_episodes_are_said_to_be():
    grid = CellGrid.from_cells([cell("none", (200, 280), 280.0)])
    for n, few in ((99, True), (100, False)):
        sure = summarize({"dataset": {"splits": {"calibration": n}}}, grid)[-1]
        assert f"100 episodes a cell, {n} to calibrate by" in sure.answer
        assert ("nothing to decide by" in sure.answer) == few


def test_alike_is_who_fixes_and_breaks_the_same():
    cells = [cell("none", (200, 280), 280.0)]
    cells += [cell("none", command, 0.0) for command in ((10, 500), (50, 350))]
    for shield, (first, second) in (("a", (280.0, 0.0)), ("b", (0.0, 279.0))):
        cells += [cell(shield, (200, 280), 280.0), cell(shield, (10, 500), first)]
        cells += [cell(shield, (50, 350), second)]
    assert [shield.shield for shield in verdict(*cells).best] == ["a"]


def test_crashes_that_chance_may_explain_are_told_and_are_not_green():
    cells = [cell("none", (200, 280), 280.0, 5), cell("none", (10, 500), 0.0)]
    failure = summarize({}, CellGrid.from_cells(cells[:1]))[2]
    assert failure.answer == "none of 1 command is shown to fail without a shield"
    assert failure.tone == "plain"
    assert "above 2%: (200, 280) returns 280 (278 to 282), 5% crash (2% to 11%)." in failure.detail
    cells += [cell("q", (200, 280), 280.0), cell("q", (10, 500), 280.0, 5)]
    fix = summarize({}, CellGrid.from_cells(cells))[3]
    assert fix.answer == "q: 1 of 1" and fix.tone == "plain"


def test_one_episode_shows_no_failure_and_no_crashes_are_told_where_there_are_none():
    only = {**cell("none", (10, 500), -9.0, None, n=1), "return_high": float("nan")}
    assert verdict(cell("none", (200, 280), 280.0), only).failures == ()
    sure = summarize({}, CellGrid.from_cells([only]))[-1]
    assert "crash" not in sure.detail and "nothing to decide by" in sure.answer


def test_of_groups_together_chance_is_not_told():
    entry = {"alpha": 0.05, "n_calibration": 300, "calibration": {"thresholds": [-9.0, -7.0]}}
    entry["false_alarms"] = {"rate": 0.5, "count": 100, "n": 200}
    found = summarize({"alpha": 0.05, "shields": {"mine": entry}}, CellGrid.from_cells([]))[4]
    assert "to chance" not in found.detail and found.tone == "plain"


def test_few_episodes_are_said_to_be():
    for n, few in ((10, True), (35, True), (36, False), (100, False)):
        sure = summarize({}, CellGrid.from_cells([cell("none", (200, 280), 280.0, n=n)]))[-1]
        assert sure.answer.endswith(f"{n} episodes a cell, one training seed")
        assert ("nothing to decide by" in sure.answer) == few == (sure.tone == "bad")
    assert "No crash in 100 leaves up to 3.6% possible" in sure.detail


def test_a_rate_that_chance_does_not_explain_is_a_broken_promise():
    def answer(count, at_starts=0):
        entry = {"alpha": 0.05, "n_calibration": 300, "threshold": -9.0}
        entry["false_alarms"] = {"rate": count / 200, "count": count, "n": 200}
        entry["start_states"] = {"rate": at_starts / 200, "count": at_starts, "n": 200}
        return summarize({"alpha": 0.05, "shields": {"mine": entry}}, CellGrid.from_cells([]))[4]

    kept, broken = answer(19), answer(20)
    assert "leave up to 9.5% to chance" in kept.detail
    assert kept.tone == "plain" and "More than that" not in kept.detail
    assert broken.tone == "bad" and "More than that: mine." in broken.detail
    starts = answer(19, at_starts=20)  # of which nothing was promised
    assert starts.tone == "plain" and "More than that at starts: mine." in starts.detail


def test_an_untried_command_is_not_fixed():
    found = verdict(
        cell("none", (200, 280), 280.0),
        cell("none", (10, 500), 0.0),
        cell("quantile", (200, 280), 280.0),
    )
    assert found.shields[0].unfixed == ((10, 500),)


def test_without_an_unshielded_row_there_is_no_verdict():
    assert verdict(cell("quantile", (200, 280), 280.0)) is None

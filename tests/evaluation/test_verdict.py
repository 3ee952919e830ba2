from flowshield.evaluation.cell_grid import CellGrid
from flowshield.evaluation.summary import summarize
from flowshield.evaluation.verdict import judge


def cell(shield, command, mean, crash=0.0, half=2.0):
    return {
        "shield": shield,
        "command": command,
        "return_mean": mean,
        "return_low": mean - half,
        "return_high": mean + half,
        "crash_rate": crash,
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
    assert other.shield == "quantile" and other.fixed == ()


def test_the_rule_is_told_with_the_numbers_that_it_was_applied_with(results):
    told = " ".join(map(str, summarize(results, CellGrid.from_cells(results["cells"]))))
    assert "even the upper end" in told
    assert "the best cell without a shield (282.0) by more than 5% of that cell (14.1)" in told


def test_asking_for_little_and_getting_it_is_no_failure():
    found = verdict(cell("none", (200, 280), 285.0), cell("none", (200, 50), 48.0))
    assert found.failures == ()


def test_asking_for_the_impossible_and_getting_the_best_is_no_failure():
    assert verdict(cell("none", (200, 280), 285.0), cell("none", (9, 999), 284.0)).failures == ()


def test_crashes_alone_are_a_failure_above_two_in_a_hundred():
    assert verdict(cell("none", (200, 280), 285.0, crash=0.02)).failures == ()
    assert verdict(cell("none", (200, 280), 285.0, crash=0.03)).failures == ((200, 280),)
    assert verdict(cell("none", (200, 280), 285.0, crash=None)).failures == ()


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


def test_an_untried_command_is_not_fixed():
    found = verdict(
        cell("none", (200, 280), 280.0),
        cell("none", (10, 500), 0.0),
        cell("quantile", (200, 280), 280.0),
    )
    assert found.shields[0].unfixed == ((10, 500),)


def test_without_an_unshielded_row_there_is_no_verdict():
    assert verdict(cell("quantile", (200, 280), 280.0)) is None

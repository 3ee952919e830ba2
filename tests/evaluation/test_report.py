import base64
import re
from html.parser import HTMLParser

import pytest
from matplotlib.figure import Figure

from flowshield.errors import DataError
from flowshield.evaluation.figures import plot_returns
from flowshield.evaluation.report import render_report, write_report

VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """Collects text and attributes, and fails on tags that are not closed in order."""

    def __init__(self, html):
        super().__init__()
        self.open, self.tags, self.words = [], [], []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"style", "script"} & set(self.open):
            self.words.append(data)

    @property
    def text(self):
        return re.sub(r"\s+", " ", " ".join(self.words))


@pytest.fixture
def page(results):
    return Page(render_report(results, {"Mean return": plot_returns(results["cells"])}))


def test_first_screen_answers_the_six_questions(page):
    start = page.text.index("Which data?")
    screen = page.text[start : page.text.index("Returns", start)]
    for said in (
        "1500 episodes of lunarlander, expert",
        "epoch 14 of 25",
        "3 of 6 commands fail without a shield",
        "(1000, 280) returns −132 ±4, 100% crash",
        "flow matching: 3 of 3",
        "set to 5%; realised: flow matching 5.3%",
        "flow matching: followed in part",
        "rank correlation 0.93 [0.31, 0.54], 58% within ±17.5 of what was asked, 5% crash",
        "8 of 150 held-out (one step per episode), interval 2.3% to 10.2%",
    ):
        assert said in screen


def test_every_number_of_the_results_appears(page, results):
    cells = [
        text
        for cell in results["cells"]
        for text in (
            f"{cell['return_mean']:.0f}",
            f"{cell['return_low']:.0f} to {cell['return_high']:.0f}",
            f"{cell['worst_5_percent']:.0f}",
            f"{cell['commanded_minus_achieved']:.0f}",
            f"{100 * cell['crash_rate']:.1f}%",
        )
    ]
    others = (
        "61 (52 to 73) 17 231 41.7% 91.3% 123 "  # cells
        "390123 12 276 35 311 259 42 975 151 225 149 "  # data
        "87.1% 88.1% 4.9% 0.765 0.954 0.0077 9.321 77 1848 "  # detection
        "−12.345 5.3% 10.2% 2.0% 2.7% 0.7% 6.7% 20.0% 21.3% 15.1% 28.7% 6.1% 3.1% 11.1% "
        "33.3% 43.3% 0.831 −9.123 99.9% −1.2345 81.2 "
        "0.93 0.62 0.21 −0.11 0.37 58% 47% 69% 40 "  # followed
        "25% 75% 123 124 137 119 153 55% 32% 77% 243 247 239 257 15% 20 "
        "20.1 s|200.2 s|180.3 s|2.13.0|0.1.0|2 cores, x86_64, no GPU|seed: 42"
    )
    first, *rest = others.split("|")
    for said in [*cells, *first.split(" "), *rest]:
        assert said.replace("-", "−") in page.text.replace("-", "−"), said


def test_command_config_and_versions_are_there(page, results):
    assert results["command"] in page.text
    assert ("details", {}) in page.tags
    assert "name: lunarlander" in page.text


def test_what_users_typed_is_escaped(results):
    evil = "<script>alert('x')</script>"
    results["dataset"]["env"] = results["command"] = results["config_yaml"] = evil
    results["machine"] = results["dataset"]["behaviour"] = evil
    results["versions"] = {evil: evil}
    results["shields"][evil] = results["shields"].pop("quantile")
    results["models"][evil] = results["models"].pop("quantile")
    results["followed"][evil] = results["followed"].pop("quantile")
    for cell in results["cells"]:
        cell["shield"] = cell["shield"].replace("quantile", evil)
    html = render_report(results, {f'"><img src=x>{evil}': Figure()})
    assert "<script" not in html and "<img src=x" not in html
    assert Page(html).text.count("alert('x')") > 10


def test_nothing_is_fetched(page, results):
    html = render_report(results, {"Mean return": plot_returns(results["cells"])})
    assert not re.search(r"https?:|url\(|@import|//cdn", html)
    for _, attributes in page.tags:
        assert "href" not in attributes
        assert attributes.get("src", "data:").startswith("data:")


def test_figures_are_inline_pictures_with_their_caption(page):
    (image,) = [attributes for tag, attributes in page.tags if tag == "img"]
    assert image["alt"] == "Mean return" and image["width"] == "864"  # 9 inches
    data = base64.b64decode(image["src"].removeprefix("data:image/png;base64,"), validate=True)
    assert data.startswith(b"\x89PNG\r\n")


def test_light_dark_and_paper(results):
    html = render_report(results, {})
    for said in ("prefers-color-scheme: dark", "@media print", "width=device-width"):
        assert said in html


def test_one_shield_without_crash_test(without_crash_test):
    results = without_crash_test
    results["cells"] = [c for c in results["cells"] if c["shield"] in ("none", "quantile")]
    results["shields"].pop("flow_matching")
    text = Page(render_report(results, {})).text
    assert "flow matching fixes" not in text and "% crash" not in text and "–" in text
    assert "quantile: 1 of 3" in text  # at (300, 400) only its crashes spoke against it


@pytest.mark.parametrize(
    "part",
    [
        "dataset",
        "alpha",
        "models",
        "shields",
        "cells",
        "followed",
        "versions",
        "config_yaml",
        "seconds",
    ],
)
def test_missing_parts_are_left_out(results, part):
    for gap in ({**results, part: None}, {k: v for k, v in results.items() if k != part}):
        text = Page(render_report(gap, {})).text
        assert "None" not in text and "nan" not in text


def test_empty_results_still_make_a_page():
    text = Page(render_report({}, {})).text
    assert "nothing was evaluated without a shield" in text and "None" not in text


def test_empty_shields_and_cells_show_dashes(results):
    results["shields"] = {"quantile": {"false_alarms": {}, "false_alarms_by_level": []}}
    results["cells"] = [{"command": [1, 2], "shield": "none", "return_mean": 3.0}]
    assert "None" not in Page(render_report(results, {})).text


def test_no_failure_is_said_and_a_shield_that_harms_is_named(results):
    for cell in results["cells"]:
        good = cell["shield"] != "quantile"
        cell.update(return_mean=285.0, return_high=287.0, crash_rate=0.0 if good else 0.5)
    text = Page(render_report(results, {})).text
    assert "none of 6 commands fails" in text
    assert "nothing to fix" in text and "quantile makes (200, 280)" in text


def test_written_whole_or_not_at_all(tmp_path, results):
    path = tmp_path / "run" / "report.html"
    write_report(path, results, {})
    before = path.read_bytes()
    assert before.decode() == render_report(results, {})
    results["cells"].append(results["cells"][0])
    with pytest.raises(DataError):
        write_report(path, results, {})
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]


def test_promises_by_episode_and_group_are_named(results):
    entry = results["shields"]["quantile"]
    entry["calibration"] = {"unit": "episode", "thresholds": [-9.0, -7.0]}
    entry["false_alarms_by_group"] = [
        {"rate": rate, "count": 1, "n": 61, "low": 0.001, "high": 0.2} for rate in (0.0123, 0.0456)
    ]
    text = Page(render_report(results, {})).text
    assert "whole episodes, by group: group 2 5.0% 4.6%" in text
    assert "one step per episode" in text  # the other shield's

import base64
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import numpy as np
import pytest
from matplotlib.figure import Figure

from flowshield.data import TrajectoryDataset
from flowshield.errors import DataError
from flowshield.evaluation.dataset_card import dataset_record
from flowshield.evaluation.figure_svg import DARK, figure_svg
from flowshield.evaluation.figures import plot_returns
from flowshield.evaluation.report import render_report, write_report

VOID = {"meta", "link", "img", "br"}


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
    return Page(render_report(results, {"returns": plot_returns(results["cells"])}))


def test_first_screen_answers_its_questions(page):
    start = page.text.index("Which data?")
    screen = page.text[start : page.text.index("Returns", start)]
    for said in (
        "1500 episodes of lunarlander, expert",
        "epoch 14 of 25",
        "3 of 6 commands fail without a shield",
        "(1000, 280) returns −132 (−135 to −127), 100% crash (97% to 100%)",
        "flow_matching: 3 of 3",
        "set to 5%; realised: 5.3%; at starts of episodes: 6.1%",
        "at starts of episodes: 6.1%; impossible commands flagged: 88.1%",
        "flow_matching: followed in part; 5% crash",
        "rank correlation 0.93 [0.31, 0.54], 58% within ±17.5 of what was asked, 5% crash",
        "flow_matching 8 of 150 (2.3% to 10.2%), at starts",
        "Promised of one step per episode; 225 calibration and 150 held-out episodes leave up to",
        "123 episodes a cell, 225 to calibrate by, one training seed",
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
    html = render_report(results, {"returns": plot_returns(results["cells"])})
    assert not re.search(r"https?:|url\(|@import|//cdn", html)
    for _, attributes in page.tags:
        assert attributes.get("href", "#").startswith(("#", "data:"))
        assert attributes.get("src", "data:").startswith("data:")


def test_figures_are_inline_pictures_with_their_caption(page):
    (image,) = [attributes for tag, attributes in page.tags if tag == "img"]
    assert image["alt"].startswith("Return by command") and image["width"] == "864"  # 9 inches
    data = base64.b64decode(image["src"].removeprefix("data:image/svg+xml;base64,"), validate=True)
    assert ElementTree.fromstring(data).tag == "{http://www.w3.org/2000/svg}svg"


def test_a_figure_stands_in_its_section_and_one_of_another_name_comes_last(results):
    html = render_report(results, {"mine": Figure(), "training": Figure(), "returns": Figure()})
    shown = re.findall(r'<section id="(\w+)"|<img alt="([^"]+?)[." ]', html)
    names = [anchor or f"figure: {caption}" for anchor, caption in shown]
    for anchor, first in (("returns", "Return"), ("training", "Training"), ("more", "mine")):
        assert names[names.index(anchor) + 1] == f"figure: {first}"


def test_every_section_is_linked(page):
    anchors = {attributes["id"] for tag, attributes in page.tags if tag == "section"}
    links = [attributes["href"] for tag, attributes in page.tags if tag == "a"]
    assert anchors >= {"returns", "detection", "calibration", "followed", "training", "data"}
    assert sorted(links) == sorted(f"#{anchor}" for anchor in anchors)


def test_a_figure_has_a_dark_counterpart_for_every_colour_of_its_own(results):
    svg = figure_svg(plot_returns(results["cells"]))
    paper, ink = "--cffffff", "--c000000"
    assert f"fill: var({paper})" in svg and f"fill:var({ink})" in svg
    style = svg[svg.index("<style>") : svg.index("</style>")]
    light, dark = style.split("@media screen and (prefers-color-scheme:dark)")
    assert f"{paper}:#ffffff" in light and f"{paper}:{DARK['#ffffff']}" in dark
    # what is drawn in a colour that stays the same would vanish on one of the two pages
    assert not re.search(r"#[0-9a-f]{6}", svg.replace(style, ""))


def test_the_explorer_is_linked_where_there_is_one(results):
    links = [a for tag, a in Page(render_report(results, {}, "explorer.html")).tags if tag == "a"]
    assert {"href": "explorer.html"} not in links  # there is no plane to explore
    html = render_report(results, {"command_plane": Figure()}, "explorer.html")
    assert {"href": "explorer.html"} in [a for tag, a in Page(html).tags if tag == "a"]


def test_the_dataset_card_says_what_there_is(tmp_path):
    arrays = {
        "states": np.zeros((6, 3)),
        "actions": np.zeros((6, 2)),
        "rewards": [1.0, 2.0, 3.0, -4.0, -5.0, 6.0],
        "terminated": [False, True, False, False, False, True],
    }
    metadata = {"env": "<b>mine</b>", "env_kwargs": {"wind": 1}, "max_episode_steps": 9, "seed": 4}
    dataset = TrajectoryDataset.from_arrays(**arrays, metadata=metadata)
    record = dataset_record(dataset, {"train": dataset})
    assert record["return_quantiles"][0] == 0.0 and record["return_quantiles"][-1] == 3.0
    (kind,) = record["behaviours"]
    assert (kind["name"], kind["n_episodes"], kind["return_mean"]) == ("unnamed", 2, 1.5)
    text = Page(render_report({"dataset": record}, {})).text
    assert "&lt;b&gt;mine" in render_report({"dataset": record}, {})
    for said in ('arguments {"wind": 1}', "state and action size 3 and 2", "step limit 9"):
        assert said in text
    assert "unnamed 2 1.50 0.00 3.00 3" in text


def test_a_dataset_says_the_same_before_and_after_it_was_saved(tmp_path):
    arrays = {"states": [[0.0]] * 2, "actions": [[0.0]] * 2, "rewards": [1.0, 2.0]}
    dataset = TrajectoryDataset.from_arrays(
        **{name: np.array(values) for name, values in arrays.items()},
        terminated=np.array([False, True]),
        metadata={"env": "mine", "seed": 4},
    )
    dataset.save(tmp_path / "a.npz")
    again = TrajectoryDataset(tmp_path / "a.npz")
    assert again.metadata != dataset.metadata
    assert dataset_record(again, {"train": again}) == dataset_record(dataset, {"train": dataset})


def test_light_dark_and_paper(results):
    html = render_report(results, {})
    for said in ("prefers-color-scheme: dark", "@media print", "width=device-width"):
        assert said in html


def test_one_shield_without_crash_test(without_crash_test):
    results = without_crash_test
    results["cells"] = [c for c in results["cells"] if c["shield"] in ("none", "quantile")]
    results["shields"].pop("flow_matching")
    text = Page(render_report(results, {})).text
    assert "flow_matching fixes" not in text and "% crash" not in text and "–" in text
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
        cell["returns"] = [285.0 if good else 270.0] * 20
    text = Page(render_report(results, {})).text
    assert "none of 6 commands is shown to fail" in text
    assert "nothing to fix" not in text and "quantile makes (200, 280)" in text
    assert "no command fails without one, and quantile does harm" in text


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

"""The pages in a real browser: nothing complains, every figure is there, a drag is answered."""

import base64
import copy
from functools import partial

import chromium
import numpy as np
import pytest

from flowshield.evaluation.explorer import explorer_payload, write_explorer
from flowshield.evaluation.report import write_report

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        chromium.PROGRAM is None, reason="no chromium or google-chrome is installed"
    ),
]
NO_SIDEWAYS = "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
SETTLED = """(async () => {
    const where = () => document.scrollingElement.scrollTop;
    for (let before = -1; before !== where();) {
        before = where();
        await new Promise(later => setTimeout(later, 200));
    }
    return where();
})()"""  # how far the page is scrolled, once a finger's swing has ended
REQUEST = "document.querySelector('#told dd').textContent"


def told(command):
    """A command as the explorer writes it, with the payload's 2 decimals of returns."""
    horizon, target = command
    return f"({horizon:.0f}, {target:.2f})".replace("-", "−")


@pytest.fixture(scope="module")
def page():
    with chromium.opened() as page:
        yield page
        assert page.complaints == [] and page.fetched == []


@pytest.fixture
def report(tmp_path, results, draw):
    names = {"moments": "command_plane"}  # as a run's report has them
    figures = {names.get(k, k): make() for k, make in draw.items() if k != "projection"}
    write_report(tmp_path / "report.html", results, figures, "explorer.html")
    return tmp_path / "report.html"


def test_the_report_opens_with_all_its_figures_light_and_dark(page, report):
    corner = """(async () => {
        const image = document.images[0];
        const canvas = document.createElement('canvas');
        canvas.width = canvas.height = 9;
        const context = canvas.getContext('2d');
        context.drawImage(image, 0, 0);
        return [...context.getImageData(4, 4, 1, 1).data];
    })()"""
    decoded = "Promise.all([...document.images].map(i => i.decode().then(() => i.naturalWidth)))"
    white, dark = [255, 255, 255, 255], [0x1D, 0x21, 0x26, 255]
    for width, scheme, media, paper in (
        (1280, "light", "screen", white),
        (390, "dark", "screen", dark),
        (718, "dark", "print", white),  # the width of A4 between its margins
    ):
        page.look(width, scheme=scheme, media=media)
        page.open(report)
        widths = page.run(decoded)
        assert len(widths) == 6 and min(widths) > 300
        assert page.run(corner) == paper
        assert page.run(NO_SIDEWAYS)
    assert report.stat().st_size < 5e6
    assert page.complaints == [] and page.fetched == []


def place_of(page, moment, column, row):
    """Where a point of the grid lies in the window, (x, y) in pixels."""
    h, r = moment["horizons"][column], moment["returns"][row]
    x, y = f"f.box.x + f.x({h})", f"f.box.y + f.y({r})"
    return page.run(f"(() => {{ const f = frame(); return [{x}, {y}]; }})()")


def shown_at(moment, column, row):
    """What is to be read when it is asked for."""
    return told((moment["horizons"][column], moment["returns"][row]))


@pytest.mark.parametrize("unit", [1, 1 / 30, 1 / 300, 50])  # 0, 2, 3 and 0 decimals
def test_no_table_is_cut_in_a_window_of_1200_pixels(page, results, unit, tmp_path):
    write_report(tmp_path / "report.html", in_units(results, unit), {})
    page.look(1200)
    page.open(tmp_path / "report.html")
    widths = page.run("""[...document.querySelectorAll('.scroll')].map(
        box => [box.closest('section').id, box.scrollWidth, box.clientWidth]
    )""")
    assert len(widths) == 11
    assert [(name, width) for name, width, room in widths if width > room] == []


def in_units(results, unit):
    """The results with every return so many times as large, and all differences below zero."""
    scaled = ("return", "worst", "commanded_minus", "commanded_return", "achieved_return")

    def within(record):
        return {
            key: _times(value, unit) if key.startswith(scaled) and key != "returns" else value
            for key, value in record.items()
        }

    cells = []
    for cell in map(within, results["cells"]):
        horizon, target = cell["command"]
        less = cell["vs_none"] and _times(cell["vs_none"], -unit)
        cells.append({**cell, "command": [horizon, target * unit], "vs_none": less})
    followed = {
        name: {**record, "levels": [within(level) for level in record["levels"]]}
        for name, record in results["followed"].items()
    }
    return {**results, "cells": cells, "followed": followed}


def _times(value, unit):
    if isinstance(value, dict):
        return {key: unit * one for key, one in value.items()}
    return unit * value


@pytest.fixture
def explorer(tmp_path, payload):
    write_explorer(tmp_path / "explorer.html", payload)
    return tmp_path / "explorer.html"


@pytest.mark.parametrize("opening", [(0, 0), (0, 1), (1, 1), (1, None)])
def test_the_explorer_opens_as_it_is_told_at_the_start_of_the_first_episode(
    page, payload, opening, tmp_path
):
    shield, preset = opening
    payload = {**payload, "opening": {"shield": shield, "preset": preset}}
    write_explorer(tmp_path / "explorer.html", payload)
    page.look()
    page.open(tmp_path / "explorer.html")
    moment = payload["episodes"][0]["moments"][0]
    asked = (moment["horizons"][0], moment["returns"][0])
    asked = asked if preset is None else moment["presets"][preset]
    assert page.run(REQUEST) == told(asked)
    chosen = "[...at('shields').querySelectorAll('input')].map(radio => radio.checked)"
    assert page.run(chosen) == [shield == 0, shield == 1]
    pressed = "[...at('presets').querySelectorAll('button')].map(b => b.ariaPressed)"
    assert page.run(pressed) == [str(preset == k).lower() for k in range(2)]
    assert page.run("at('episode').selectedIndex") == 0
    assert page.run("at('step').textContent").startswith("step 0 of")
    assert page.complaints == [] and page.fetched == []


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_the_explorer_answers_a_drag_and_the_keys(page, explorer, payload, width, scheme):
    page.look(width, scheme=scheme)
    page.open(explorer)
    assert page.run(NO_SIDEWAYS)
    moment = payload["episodes"][0]["moments"][0]
    place, shown = partial(place_of, page, moment), partial(shown_at, moment)
    page.mouse("Pressed", *place(1, 1))
    assert page.run(REQUEST) == shown(1, 1)
    page.mouse("Moved", *place(3, 2))
    assert page.run(REQUEST) == shown(3, 2)
    page.mouse("Released", *place(3, 2))
    page.mouse("Moved", *place(0, 0))
    assert page.run(REQUEST) == shown(3, 2)  # it was let go
    page.key("ArrowLeft")
    page.key("ArrowUp")
    assert page.run(REQUEST) == shown(2, 3)
    assert page.complaints == [] and page.fetched == []


def test_a_finger_drags_the_request_and_not_the_page(page, explorer, payload):
    page.look(390, 500)
    page.open(explorer)
    moment = payload["episodes"][0]["moments"][0]
    place, shown = partial(place_of, page, moment), partial(shown_at, moment)
    page.touch("Start", (200, 300))  # on the words above the plane: that scrolls
    for y in range(290, 40, -50):
        page.touch("Move", (200, y))
    page.touch("End")
    assert page.run(SETTLED) > 100
    page.run("scrollBy(0, frame().box.top - 200), 0")
    scrolled = page.run(SETTLED)
    # the plane ends below the window: it is not to be brought into it under the finger
    assert page.run("Math.round(frame().box.top) === 200 && frame().box.bottom > innerHeight")
    page.touch("Start", place(1, 3))
    assert page.run(REQUEST) == shown(1, 3)
    for column, row in ((2, 3), (2, 2), (3, 1), (0, 3)):
        page.touch("Move", place(column, row))
        assert page.run(REQUEST) == shown(column, row)
    page.touch("Move", place(2, 3), place(0, 2))  # a second finger asks for nothing
    assert page.run(REQUEST) == shown(2, 3)
    page.touch("End")
    page.touch("Start", place(1, 2))
    page.touch("End")
    assert page.run(REQUEST) == shown(1, 2)
    assert page.run(SETTLED) == scrolled
    assert page.complaints == [] and page.fetched == []


def test_every_request_is_told_as_the_payload_says(page, explorer, payload):
    page.look()
    page.open(explorer)
    answers = page.run("""(() => {
        const answers = [];
        for (const shield of data.shields.keys()) {
            state.shield = shield;
            for (let row = 0; row < 4; row++) for (let column = 0; column < 4; column++) {
                ask(column, row);
                const moved = svg.querySelector('#projection') !== null;
                answers.push([at('verdict').textContent, moved]);
            }
        }
        return answers;
    })()""")
    moment = payload["episodes"][0]["moments"][0]
    supported = [base64.b64decode(shield["supported"])[:16] for shield in moment["shields"]]
    expected = [
        ["supported", False] if one else ["not supported", True] for s in supported for one in s
    ]
    assert answers == expected


def test_moments_and_presets_are_picked(page, explorer, payload):
    page.look()
    page.open(explorer)
    page.run("at('moment').value = 1, at('moment').dispatchEvent(new Event('input')), 0")
    later = payload["episodes"][0]["moments"][1]
    assert page.run("at('step').textContent").startswith(f"step {later['step']} of")
    page.run("at('presets').querySelectorAll('button')[1].click(), 0")
    assert page.run(REQUEST) == told(later["presets"][1])


EVIL = (
    "<script>ran = 1</script>",
    "</script><script>ran = 1</script>",
    "<!--<script>",
    "--></title></style></textarea><img src=x onerror='ran = 1'>",
    "\"'`><svg onload='ran = 1'>",
    "&lt;b&gt; &amp; \\u003cscript\\u003e {{ 7 * 7 }} ${ran = 1}",
    "line\u2028separator\u2029and\\",
)
RAN = "typeof ran !== 'undefined' || document.images.length > 0"


@pytest.mark.parametrize("evil", EVIL)
def test_what_users_typed_is_shown_and_runs_nothing(
    page, shields, episodes, results, evil, tmp_path
):
    episodes = copy.copy(episodes)
    episodes.behaviours = np.full(episodes.n_episodes, evil)
    sizes = {"n_episodes": 1, "n_moments": 1, "n_requests": 2}
    payload = explorer_payload({evil: shields["mixture"]}, episodes, [(9, 9)], **sizes, title=evil)
    write_explorer(tmp_path / "explorer.html", payload)
    page.open(tmp_path / "explorer.html")
    assert page.run("document.querySelector('h1').textContent") == f"Command explorer: {evil}"
    assert page.run("at('shields').querySelector('label').textContent") == f" {evil}"
    assert page.run("document.scripts.length") == 2 and not page.run(RAN)

    results["dataset"]["env"] = results["command"] = results["config_yaml"] = evil
    results["dataset"]["behaviour"] = results["machine"] = evil
    results["shields"][evil] = results["shields"].pop("quantile")
    write_report(tmp_path / "report.html", results, {}, "explorer.html")
    page.open(tmp_path / "report.html")
    assert evil in page.run("document.body.textContent")
    assert page.run("document.scripts.length") == 0 and not page.run(RAN)
    assert page.complaints == [] and page.fetched == []

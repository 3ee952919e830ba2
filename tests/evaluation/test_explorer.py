import base64
import json
import re
import shutil
import subprocess
from importlib.resources import files

import numpy as np
import pytest
import torch

from flowshield.errors import DataError
from flowshield.evaluation.explorer import explorer_payload, write_explorer
from flowshield.evaluation.explorer_grid import FINER, chosen_episodes, moment_steps
from flowshield.evaluation.verdict import ShieldVerdict, Verdict
from flowshield.evaluation.wording import number
from flowshield.models.scale import ReturnScale

COMMANDS = [(10.0, 12.0), (500.0, 3.0)]  # as in conftest.py


def decoded(text, dtype="<f4"):
    return np.frombuffer(base64.b64decode(text), dtype)


def test_every_number_is_what_the_shield_says(payload, shields, episodes):
    seen = set()
    for place, episode in zip(chosen_episodes(episodes, 2), payload["episodes"], strict=True):
        assert episode["return"] == episodes.episode_returns[place]
        for moment in episode["moments"]:
            index = episodes.episode_starts[place] + moment["step"]
            grid = np.array([[h, r] for r in moment["returns"] for h in moment["horizons"]])
            requests = torch.tensor(np.concatenate([grid, moment["presets"]]), dtype=torch.float32)
            state = torch.as_tensor(episodes.states[[index]]).expand(len(requests), -1)
            for shield, told in zip(shields.values(), moment["shields"], strict=True):
                score = shield.score(state, requests)
                np.testing.assert_allclose(decoded(told["score"]), score, atol=1e-4)
                supported = decoded(told["supported"], "u1").astype(bool)
                ood = shield.is_ood(state, requests).numpy()
                # two batches differ in their last bits: at the threshold itself either may be told
                clear = np.abs(score.numpy() - told["threshold"]) > 1e-4
                np.testing.assert_array_equal(supported[clear], ~ood[clear])
                assert told["threshold"] == float(shield.limits(state)[0])
                there = shield.project_in_detail(state, requests)
                projected = decoded(told["projected"]).reshape(-1, 2)
                np.testing.assert_allclose(projected, there.command, rtol=1e-3, atol=1e-3)
                np.testing.assert_allclose(decoded(told["projectedScore"]), there.score, atol=1e-2)
                np.testing.assert_array_equal(decoded(told["found"], "u1"), there.supported)
                seen |= set(supported.tolist())
    assert seen == {True, False}


def test_returns_have_a_decimal_more_than_a_hundredth_of_their_spread(payload, episodes):
    assert payload["decimals"] == ReturnScale.of_commands(episodes.commands).decimals + 1 == 2


@pytest.mark.skipif(shutil.which("node") is None, reason="no node is installed")
def test_the_page_writes_numbers_as_the_report_does():
    script = (files("flowshield.evaluation") / "explorer.js").read_text()
    written = re.search(
        r"^function number\(.*?^}\nfunction withExponent.*?^}$", script, re.M | re.S
    )
    assert written is not None
    cases = [
        (value * unit, decimals)
        for value in (
            0.0,
            0.5031,
            -0.9837,
            12.317,
            -247.3,
        )  # no ties, which either rounds its own way
        for unit in (1e-9, 1e-6, 1e-3, 1.0, 1e3, 1e6, 1e9)
        for decimals in (-7, -4, -3, 0, 1, 3, 5, 6, 8)
    ]
    program = (
        f"{written[0]}\nconsole.log(JSON.stringify({json.dumps(cases)}.map((c) => number(...c))))"
    )
    said = subprocess.run(["node", "-e", program], capture_output=True, text=True, check=True)
    expected = [number(*case) for case in cases]
    for case, ours, theirs in zip(cases, expected, json.loads(said.stdout), strict=True):
        assert ours == theirs, case


def test_presets_and_what_was_fulfilled_stand_at_what_is_left(payload, episodes):
    place = chosen_episodes(episodes, 2)[1]
    start, moment = episodes.episode_starts[place], payload["episodes"][1]["moments"][1]
    index = start + moment["step"]
    assert moment["step"] == episodes.episode_lengths[place] // 2
    assert moment["fulfilled"] == episodes.commands[index].tolist()
    left = np.array(COMMANDS) - (moment["step"], episodes.rewards[start:index].sum())
    np.testing.assert_allclose(moment["presets"], left, rtol=1e-5)
    assert moment["bound"] is None  # the episodes name no environment


def test_the_map_colours_the_grid_points_by_their_verdicts(payload):
    for moment in (m for episode in payload["episodes"] for m in episode["moments"]):
        for told in moment["shields"]:
            width = FINER * 3 + 1
            above = decoded(told["map"], "i1").reshape(width, width)[::FINER, ::FINER].ravel()
            score = decoded(told["score"])[:16].astype(float) - told["threshold"]
            clear = np.abs(score) > 1e-3
            np.testing.assert_array_equal((above >= 0)[clear], (score >= 0)[clear])


def test_the_grid_is_of_whole_steps_and_shows_what_was_fulfilled(payload):
    for moment in (m for episode in payload["episodes"] for m in episode["moments"]):
        horizons, returns = np.array(moment["horizons"]), np.array(moment["returns"])
        assert horizons[0] == 1 and (np.diff(horizons) == np.diff(horizons)[0]).all()
        assert np.diff(horizons)[0] % 1 == 0
        assert np.diff(returns) == pytest.approx(np.diff(returns)[0], rel=1e-4)
        horizon, target = moment["fulfilled"]
        assert horizon <= horizons[-1] and returns[0] <= target <= returns[-1]


def test_episodes_and_moments_are_spread(episodes):
    returns = episodes.episode_returns[chosen_episodes(episodes, 3)]
    ranks = np.searchsorted(np.sort(episodes.episode_returns), returns)
    assert ranks.tolist() == [3, 10, 16]
    assert sorted(chosen_episodes(episodes, 99)) == list(range(20))
    assert moment_steps(197, 4) == [0, 49, 98, 147] and moment_steps(2, 5) == [0, 1]


def verdict(failures, *best):
    """One of shields so named, the best first."""
    judged = tuple(
        ShieldVerdict(name, (), (), unfixed=failures, broken=(), worsened=(), mean_return=0.0)
        for name in best
    )
    return Verdict(reference=9.0, failures=failures, n_commands=2, shields=judged)


@pytest.mark.parametrize(
    ("judged", "shield", "preset"),
    [
        (verdict((COMMANDS[1],), "mixture", "mine <b>"), 0, 1),
        (verdict((COMMANDS[1], COMMANDS[0]), "mine <b>", "mixture"), 1, 1),
        (verdict((), "mixture"), 0, 0),
        (verdict(((7.0, 7.0), COMMANDS[1]), "of another run", "mixture"), 0, 1),
        (verdict(((7.0, 7.0),)), 1, 0),
        (None, 1, 0),
    ],
)
def test_it_opens_where_the_verdict_points(shields, episodes, judged, shield, preset):
    sizes = {"n_episodes": 1, "n_moments": 1, "n_requests": 2}
    payload = explorer_payload(shields, episodes, COMMANDS, **sizes, verdict=judged)
    assert payload["opening"] == {"shield": shield, "preset": preset}


def test_without_commands_it_opens_on_the_grid(shields, episodes):
    payload = explorer_payload(shields, episodes, [], n_episodes=1, n_moments=1, n_requests=2)
    assert payload["opening"]["preset"] is None


def test_the_page_holds_the_payload_escaped_and_fetches_nothing(payload, tmp_path):
    write_explorer(tmp_path / "explorer.html", payload)
    html = (tmp_path / "explorer.html").read_text()
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)
    assert json.loads(data[1]) == payload
    assert "<b>" not in html and "<i>mine" not in html and "&lt;i&gt;mine" in html
    addresses = re.findall(r"https?://[^\s\"']+", html)
    assert addresses == ["http://www.w3.org/2000/svg"]  # a name, which nothing fetches
    assert "default-src 'none'" in html


def test_what_cannot_be_explored_is_refused(shields, episodes):
    with pytest.raises(DataError, match="one shield at least"):
        explorer_payload({}, episodes, COMMANDS)
    with pytest.raises(DataError, match="two requests an axis, got 2, 5 and 1"):
        explorer_payload(shields, episodes, COMMANDS, n_requests=1)

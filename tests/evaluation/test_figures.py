import sys
import warnings

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from flowshield.errors import DataError, ShapeError
from flowshield.evaluation.command_plane import CommandPlane, plot_projection
from flowshield.evaluation.figures import (
    plot_calibration,
    plot_ood_detection,
    plot_returns,
    plot_training_curves,
)
from flowshield.evaluation.follow_figure import plot_followed
from flowshield.evaluation.moments_figure import plot_moments

NAMES = ["moments", "followed", "returns", "detection", "calibration", "projection", "training"]


def rendered(figure):
    canvas = FigureCanvasAgg(figure)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a layout that does not fit warns
        canvas.draw()
    return canvas.get_renderer()


def texts(figure):
    found = [t for t in figure.findobj(Text) if t.get_visible() and t.get_text().strip()]
    return {t.get_text().replace("−", "-"): t for t in found}


def drawn_texts(figure):
    """Text as it ends up on the canvas: ticks outside their axis' limits are not drawn."""
    renderer = rendered(figure)
    hidden = set()
    for axes in figure.axes:
        for axis, (low, high) in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
            low, high = sorted((low, high))
            for tick in axis.get_major_ticks() + axis.get_minor_ticks():
                if not low - 1e-9 <= tick.get_loc() <= high + 1e-9:
                    hidden |= {tick.label1, tick.label2}
    every = figure.findobj(Text)
    shown = [t for t in every if t not in hidden and t.get_visible() and t.get_text().strip()]
    return [(t.get_text(), t.get_window_extent(renderer)) for t in shown]


@pytest.mark.parametrize("name", NAMES)
def test_every_text_lies_inside_the_canvas(draw, name):
    figure = draw[name]()
    width, height = figure.bbox.size
    for text, box in drawn_texts(figure):
        assert box.x0 >= -0.5 and box.y0 >= -0.5, text
        assert box.x1 <= width + 0.5 and box.y1 <= height + 0.5, text


@pytest.mark.parametrize("name", NAMES)
def test_no_two_texts_overlap(draw, name):
    boxes = [(text, box.shrunk(0.9, 0.9)) for text, box in drawn_texts(draw[name]())]
    clashes = [
        (first, second)
        for i, (first, a) in enumerate(boxes)
        for second, b in boxes[i + 1 :]
        if a.overlaps(b)
    ]
    assert clashes == []


@pytest.mark.parametrize("name", NAMES)
def test_every_panel_says_what_its_axes_are(draw, name):
    figure = draw[name]()
    assert isinstance(figure, Figure)
    labels = [axes.get_xlabel() + axes.get_ylabel() for axes in figure.axes]
    assert all(labels)


def test_nothing_global_is_touched(draw):
    before = sys.modules.get("matplotlib.pyplot")
    for make in draw.values():
        make()
    assert sys.modules.get("matplotlib.pyplot") is before


def containers(axes):
    return {c.get_label(): c for c in axes.containers}


def test_returns_are_drawn_where_they_were_measured(results):
    axes = plot_returns(results["cells"]).axes[0]
    for shield, label in (("none", "no shield"), ("flow_matching", "flow_matching")):
        points, _, (bars,) = containers(axes)[label]
        cells = [cell for cell in results["cells"] if cell["shield"] == shield]
        assert points.get_ydata().tolist() == [cell["return_mean"] for cell in cells]
        assert np.round(points.get_xdata()).tolist() == [0, 1, 2, 3, 4, 5]
        ends = [segment[:, 1].tolist() for segment in bars.get_segments()]
        assert ends == [[cell["return_low"], cell["return_high"]] for cell in cells]


def test_shields_beside_each_other_do_not_share_a_place(results):
    axes = plot_returns(results["cells"]).axes[0]
    starts = sorted(c[0].get_xdata()[0] for c in axes.containers)
    assert len(set(starts)) == 3 and sum(starts) == pytest.approx(0.0)


def test_crash_shares_are_written(results):
    found = [t.get_text() for t in plot_returns(results["cells"]).axes[1].texts]
    assert found.count("100%") == 1 and found.count("30%") == 1 and len(found) == 18


def test_without_crash_test_there_is_no_strip(without_crash_test):
    figure = plot_returns(without_crash_test["cells"])
    assert len(figure.axes) == 1 and figure.axes[0].get_xlabel().startswith("command")


def test_single_cell_without_interval_draws():
    cell = {"command": [5, 1.0], "shield": "mine $x$", "return_mean": 0.5, "return_low": None}
    figure = plot_returns([cell])
    rendered(figure)
    assert containers(figure.axes[0])[r"mine \$x\$"][0].get_ydata().tolist() == [0.5]


def test_roc_area_is_integrated_or_taken():
    curve = {"false_positive_rate": [0, 0, 0.5, 1], "true_positive_rate": [0, 0.5, 1, 1]}
    legend = texts(plot_ood_detection({"quantile": curve, "mine": {**curve, "auc_roc": 0.9}}))
    assert "quantile, AUROC 0.875" in legend and "mine, AUROC 0.900" in legend


def test_roc_curves_and_level_are_drawn(results):
    curve = results["shields"]["quantile"]["roc"]
    for axes in plot_ood_detection({"quantile": curve}, alpha=0.07).axes:
        lines = {line.get_label(): line for line in axes.lines}
        drawn = lines["quantile, AUROC 0.930"]
        assert drawn.get_xdata().tolist() == curve["false_positive_rate"]
        assert drawn.get_ydata().tolist() == curve["true_positive_rate"]
        assert lines["calibrated to 0.07"].get_xdata() == [0.07, 0.07]


def test_calibration_bars_are_the_intervals(results):
    levels = results["shields"]["quantile"]["false_alarms_by_level"]
    (axes,) = plot_calibration({"quantile": levels}).axes
    points, _, (bars,) = containers(axes)["quantile"]
    assert points.get_xdata() == pytest.approx([0.02, 0.2])
    assert points.get_ydata() == pytest.approx([0.027, 0.213])
    ends = np.array([segment[:, 1] for segment in bars.get_segments()])
    assert ends == pytest.approx(np.array([[0.007, 0.067], [0.151, 0.287]]))


def test_calibration_of_a_shield_without_levels_draws(results):
    levels = results["shields"]["quantile"]["false_alarms_by_level"]
    rendered(plot_calibration({"quantile": levels, "diffusion": []}))


def test_training_marks_the_best_epoch(results):
    history = results["models"]["agent"]["history"]
    (axes,) = plot_training_curves({"agent": history}).axes
    lines = {line.get_label(): line for line in axes.lines}
    assert lines["train"].get_ydata().tolist() == [row["train_loss"] for row in history]
    assert lines["best"].get_xdata() == [14]


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_training_has_a_panel_for_every_model(results, count):
    history = results["models"]["agent"]["history"]
    figure = plot_training_curves({f"model_{i}": history for i in range(count)})
    assert [axes.get_title() for axes in figure.axes] == [f"model {i}" for i in range(count)]
    rendered(figure)


def test_training_without_validation_and_of_one_epoch():
    (axes,) = plot_training_curves({"agent": [{"epoch": 1, "train_loss": 3.0}]}).axes
    (line,) = axes.lines
    assert line.get_marker() == "o"


def test_plane_draws_requests_projections_data_and_bound(plane):
    axes = plot_projection(CommandPlane(**plane)).axes[0]
    lines = {line.get_label(): line for line in axes.lines}
    assert lines["request"].get_xydata().tolist() == plane["requests"]
    assert lines["projection"].get_xydata().tolist() == plane["projections"]
    assert lines["commands in the data"].get_xydata().tolist() == plane["data_commands"]
    assert set(lines["provable bound on R: 337"].get_ydata()) == {337.0}
    arrows = [a for a in axes.texts if getattr(a, "arrow_patch", None)]
    assert [a.xy for a in arrows] == [(180, 300), (260, 250)]  # the unmoved one has none


def test_threshold_contour_lies_where_the_density_equals_it(plane):
    axes = plot_projection(plane).axes[0]
    contour = axes.collections[-1]
    assert contour.levels.tolist() == [-12.5]
    h, r = np.concatenate([path.vertices for path in contour.get_paths()]).T
    distance = ((h - 200) / 40) ** 2 + ((r - 280) / 20) ** 2
    assert distance == pytest.approx(np.full(len(h), 4.5), abs=0.4)


def test_plane_without_anything_but_a_density_draws(plane):
    bare = {k: plane[k] for k in ("horizons", "returns", "log_prob", "threshold")}
    rendered(plot_projection(bare))
    bare["log_prob"] = np.where(bare["log_prob"] < -20, -np.inf, bare["log_prob"])
    rendered(plot_projection(bare))


@pytest.mark.parametrize("threshold", [-5000.0, 3.0])
def test_plane_where_all_or_nothing_is_supported_has_no_contour(plane, threshold):
    figure = plot_projection({**plane, "threshold": threshold})
    rendered(figure)
    assert not any("threshold" in text for text in texts(figure))


def test_plane_shows_requests_outside_its_grid(plane):
    far = {**plane, "requests": [[1000, 900]], "projections": [[200, 280]]}
    axes = plot_projection(far).axes[0]
    assert axes.get_xlim()[1] > 1000 and axes.get_ylim()[1] > 900


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"log_prob": np.zeros((30, 40))}, ShapeError, r"\[40, 30\], got \[30, 40\]"),
        ({"log_prob": np.full((40, 30), np.nan)}, DataError, "check the shield"),
        ({"log_prob": np.full((40, 30), -np.inf)}, DataError, "check the shield"),
        ({"threshold": float("nan")}, DataError, "calibrate"),
        ({"projections": [[1, 2]]}, ShapeError, "3 requests and 1 projections"),
        ({"data_commands": [1.0, 2.0, 3.0]}, ShapeError, "data_commands"),
        ({"horizons": np.zeros(30)}, DataError, "rising"),
    ],
)
def test_plane_refuses_what_does_not_fit(plane, change, error, said):
    with pytest.raises(error, match=said):
        plot_projection({**plane, **change})


def test_moments_share_one_scale_about_their_thresholds(plane):
    low = CommandPlane(**{**plane, "threshold": -30.0})
    first, second = (plot_moments({"start": p}).axes[0] for p in (CommandPlane(**plane), low))
    for axes, reach in ((first, 4.5), (second, 22.0)):
        (contour,) = [c for c in axes.collections if list(c.levels) == [0.0]]
        h, r = np.concatenate([path.vertices for path in contour.get_paths()]).T
        distance = ((h - 200) / 40) ** 2 + ((r - 280) / 20) ** 2
        inside = (h > 1) & (h < 400) & (r > -100) & (r < 400)
        assert distance[inside] == pytest.approx(np.full(inside.sum(), reach), abs=1.0)


def test_a_request_beyond_a_panel_is_drawn_at_its_edge(plane):
    requests, projections = [[900, 350], [200, 800]], [[180, 300], [200, 280]]
    fields = {**plane, "requests": requests, "projections": projections}
    axes = plot_moments({"start": CommandPlane(**fields)}).axes[0]
    lines = [line for line in axes.lines if line.get_label() == "request beyond the panel"]
    assert [tuple(line.get_xydata()[0]) for line in lines] == [(400, 350), (200, 400)]
    assert [line.get_marker() for line in lines] == [">", "^"]
    assert axes.get_xlim() == (1, 400) and axes.get_ylim() == (-100, 400)


def test_moments_where_nothing_could_be_computed_draw(plane):
    none = CommandPlane(**{**plane, "log_prob": np.full((40, 30), -np.inf)})
    rendered(plot_moments({"start": none}))


def test_nothing_to_draw_is_said():
    with pytest.raises(DataError, match="one moment"):
        plot_moments({})
    for function in (plot_ood_detection, plot_calibration, plot_training_curves):
        with pytest.raises(DataError, match="expected"):
            function({})
    with pytest.raises(DataError, match="evaluate first"):
        plot_returns([])
    with pytest.raises(DataError, match="'agent'"):
        plot_training_curves({"agent": []})


def test_what_was_achieved_is_drawn_over_what_was_asked_by_how_it_ended(results):
    record = results["followed"]["quantile"]
    figure = plot_followed({"quantile": record, "none_supported": {"n_episodes": 0}})
    returns, horizons = figure.axes
    for axes, column in ((returns, 1), (horizons, 0)):
        drawn = {c.get_label(): c.get_offsets() for c in axes.collections}
        assert {label: len(points) for label, points in drawn.items()} == {
            "ended by itself": 36,
            "ran out of time": 2,
            "crashed": 2,
        }
        pairs = [record[side][0][column] for side in ("commanded", "achieved")]
        assert drawn["crashed"][0].tolist() == pairs
        (line,) = axes.lines
        assert list(line.get_xdata()) == list(line.get_ydata())
    with pytest.raises(DataError, match="no command was supported"):
        plot_followed({"quantile": {"n_episodes": 0}})

import io

import matplotlib
import numpy as np
import pytest
from PIL import Image
from sciml import plotting
from sciml.errors import ShapeError


def test_curves_draw_every_line_and_leave_zeros_out_of_log_scales():
    figure = plotting.curves([0, 1, 2], {"error": {"a": [0, 1e-3, 1e-2], "b": [1, 1, 1]}, "drift": {"a": [1, 2, 3]}})
    left, right = figure.axes
    assert [line.get_label() for line in left.lines] == ["a", "b"]
    assert np.isnan(left.lines[0].get_ydata()[0])
    assert left.get_yscale() == right.get_yscale() == "log"


def test_repeated_trainings_share_a_colour_and_one_entry_of_the_legend():
    records = [
        {"training": f"{name}-{repeat}", "step": step, "loss": 1 / (1 + step)}
        for name in ("adam", "sgd")
        for repeat in range(3)
        for step in (1, 2)
    ]
    figure = plotting.loss_curves([*records, {"training": "alone", "step": 1, "loss": 1.0}])
    (axis,), (legend,) = figure.axes, figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["adam (3 repeats)", "sgd (3 repeats)", "alone"]
    assert len({line.get_color() for line in axis.lines}) == 3
    assert len(axis.lines) == 7


def test_loss_curves_have_training_and_validation():
    records = [{"training": "t", "step": k, "loss": 1 / k} for k in (1, 2, 3)]
    records.append({"training": "t", "step": 3, "epoch_loss": 0.5, "validation_loss": 0.6})
    (axis,) = plotting.loss_curves(records).axes
    assert [line.get_label() for line in axis.lines] == ["t", "t, validation"]
    np.testing.assert_array_equal(axis.lines[0].get_xdata(), [1, 2, 3])


def test_fields_have_x_to_the_right_and_one_colour_scale():
    u = np.arange(6.0).reshape(3, 2)
    figure = plotting.fields({"u": u, "2u": 2 * u}, extent=(0.0, 1.0, 0.0, 1.0))
    images = [axis.images[0] for axis in figure.axes if axis.images]
    np.testing.assert_array_equal(images[0].get_array(), u.T)
    assert [image.get_clim() for image in images] == [(0, 10), (0, 10)]
    with pytest.raises(ShapeError, match=r"'u' has shape \(3,\)"):
        plotting.fields({"u": np.zeros(3)})


def test_distributions_are_densities_of_the_finite_values():
    (axis,) = plotting.distributions({"a": [0.0, 0.5, 1.0, np.nan]}, xlabel="x", bins=2).axes
    heights = axis.patches[0].get_xy()[:, 1]
    assert heights.max() == pytest.approx(4 / 3)


def test_convergence_lines_have_the_asked_slope():
    h = np.array([0.1, 0.05, 0.025])
    (axis,) = plotting.convergence(h, {"error": h**2}, orders=[2.0]).axes
    np.testing.assert_allclose(axis.lines[1].get_ydata(), h**2)


def test_saved_figures_leave_no_temporary_file(tmp_path):
    plotting.save_figure(plotting.curves([0, 1], {"a": {"b": [1, 2]}}), tmp_path / "new" / "figure.png")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["figure.png"]


@pytest.mark.parametrize("count", [1, plotting.CROWDED + 1])  # the legend among the curves, or beside them
def test_saved_figures_have_the_pixels_of_tight_ones(count, tmp_path):
    lines = {f"{i}": [0.1 * (i + 1), 1.0, 20.0] for i in range(count)}
    figures = [plotting.curves([0, 1, 2], {"a": lines}) for _ in range(2)]
    canvas = figures[0].canvas
    plotting.save_figure(figures[0], tmp_path / "saved.png")
    assert figures[0].canvas is canvas  # a window may show it
    figures[1].savefig(tmp_path / "tight.png", dpi=100, bbox_inches="tight")
    saved, tight = (np.asarray(Image.open(tmp_path / f"{name}.png")) for name in ("saved", "tight"))
    np.testing.assert_array_equal(saved, tight)


@pytest.mark.parametrize("setting", ["figure.autolayout", "figure.constrained_layout.use"])
def test_figures_with_colour_bars_are_saved_whatever_layout_is_the_default(setting, tmp_path, monkeypatch):
    image = np.arange(12.0).reshape(3, 4)
    figures = [plotting.fields({"a": image, "b": 1e5 * image}) for _ in range(2)]
    figures[0].savefig(tmp_path / "tight.png", dpi=100, bbox_inches="tight")
    monkeypatch.setitem(matplotlib.rcParams, setting, True)
    plotting.save_figure(figures[1], tmp_path / "saved.png")
    saved, tight = (np.asarray(Image.open(tmp_path / f"{name}.png")) for name in ("saved", "tight"))
    np.testing.assert_array_equal(saved, tight)


@pytest.mark.parametrize(
    "draw",
    [
        lambda: plotting.curves([0], {}),
        lambda: plotting.fields({}),
        lambda: plotting.distributions({}, xlabel="x"),
        lambda: plotting.convergence([1.0], {}),
    ],
)
def test_nothing_to_draw_is_said(draw):
    with pytest.raises(ShapeError, match="nothing to draw"):
        draw()


@pytest.mark.filterwarnings("error")
def test_samples_that_all_diverged_are_left_out():
    (axis,) = plotting.distributions({"a": [0.0, 1.0], "b": [np.nan, np.inf]}, xlabel="x").axes
    assert len(axis.patches) == 1


def test_a_large_figure_is_written_with_fewer_colours_and_looks_the_same(tmp_path):
    noise = np.random.default_rng(0).normal(size=(90, 2000))
    figure = plotting.curves(np.arange(2000), {"noise": {f"{i}": line for i, line in enumerate(noise)}}, scale="linear")
    plotting.save_figure(figure, tmp_path / "small.png")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100, bbox_inches="tight")
    assert len(buffer.getvalue()) > plotting.LARGE
    assert (tmp_path / "small.png").stat().st_size < 0.6 * len(buffer.getvalue())
    full, reduced = (np.asarray(Image.open(x).convert("RGB"), dtype=float) for x in (buffer, tmp_path / "small.png"))
    assert full.shape == reduced.shape
    assert np.abs(full - reduced).mean() < 3  # of 255


def test_rare_colours_keep_their_hue():
    image = np.random.default_rng(0).integers(0, 256, (200, 300, 1), dtype=np.uint8).repeat(3, axis=2)
    image[..., 2] //= 2  # many shades of yellow
    image[:2, :5] = (148, 103, 189)
    png = io.BytesIO()
    Image.fromarray(image).save(png, format="png")
    reduced = np.asarray(Image.open(io.BytesIO(plotting.with_palette(png.getvalue()))).convert("RGB"), dtype=float)
    assert np.abs(reduced[:2, :5] - (148, 103, 189)).max() < 20

"""What the experiment on clouds measures and how it weighs."""

import numpy as np
import pytest
import torch
from nn2no.experiments import point_cloud
from nn2no.experiments.point_cloud import EXPERIMENT, FACTORS, CloudTransformer, Config, Data, Models, Untrained
from nn2no.problems.poisson_cloud import PoissonCloud
from sciml.experiment import RunDirectory
from sciml.runtime import Runtime


def test_untrained_layers_converge_with_weights_only():
    """Acceptance A7, on fewer clouds."""
    torch.manual_seed(0)
    config = Config(untrained=Untrained(clouds=3, queries=60, dense=97))
    base, fine = FACTORS.index(1), len(FACTORS) - 1
    for layer, errors in point_cloud.untrained_errors(config, seed=0).items():
        weighted, unweighted = errors["weighted"], errors["unweighted"]
        assert weighted[base] < 0.2, layer
        assert weighted[fine] < weighted[base] / 2, layer
        assert unweighted[base] > 2 * weighted[base], layer
        assert unweighted[fine] > unweighted[base] / 2, layer


def test_transformer_splits_nodes_and_ignores_what_fills_up():
    torch.manual_seed(0)
    model = CloudTransformer(8, 2, 2).double()
    f, x, w = torch.rand(2, 9, 1).double(), torch.rand(2, 9, 2).double(), 0.1 + torch.rand(2, 9).double()
    g = model(f, x, w)
    split = torch.cat([w, 0.3 * w[:, 3:4]], 1)
    split[:, 3] *= 0.7
    twice = model(torch.cat([f, f[:, 3:4]], 1), torch.cat([x, x[:, 3:4]], 1), split)
    assert (twice[:, :9] - g).abs().max() < 1e-13
    more = [torch.cat([t, torch.full_like(t[:, :2], value)], 1) for t, value in ((f, 0.0), (x, torch.nan), (w, 0.0))]
    assert (model(*more)[:, :9] - g).abs().max() < 1e-13


@pytest.mark.parametrize("weighted", [True, False])
def test_loss_weighs_the_norm_always_and_the_layers_on_demand(weighted):
    data = point_cloud.tensors(PoissonCloud(min_points=20, max_points=40).generate(3))
    seen = []

    def model(f, x, w):
        seen.append((f, w))
        return torch.ones_like(f)

    errors = point_cloud.relative_errors({"f": 2.0, "u": 0.1}, weighted=weighted)(model, data)
    f, w = seen[0]
    torch.testing.assert_close(f[..., 0], data["f"] / 2)
    real = data["weights"] > 0
    n = real.sum(1, keepdim=True)
    torch.testing.assert_close(w, data["weights"] if weighted else torch.where(real, 1 / n, 0.0))
    u, Δ = data["u"].double(), data["weights"].double()
    expected = ((Δ * (0.1 - u) ** 2).sum(1) / (Δ * u**2).sum(1)).sqrt()
    torch.testing.assert_close(errors.double(), expected, rtol=1e-5, atol=0)


def test_models_of_all_presets_can_be_built():
    for name in ("smoke", "small"):
        for kind in point_cloud.MODELS:
            model = point_cloud.make_model(kind, EXPERIMENT.config(name))
            assert sum(p.numel() for p in model.parameters()) > 0


def test_report_has_the_bars_of_the_specification(tmp_path):
    config = Config(
        radius=0.5,
        untrained=Untrained(clouds=1, points=60, dense=9, queries=5, channels=2),
        data=Data(train=2, validation=1, test=1, min_points=20, max_points=30),
        models=Models(width=2, n_layers=1, kernel_hidden=2, attention_width=2, attention_layers=1, heads=1),
        training=point_cloud.Training(epochs=1, batch_size=2),
    )
    report = point_cloud.run(config, RunDirectory(tmp_path, 0, Runtime("cpu")))
    assert len(report.bars) == 4 * 3 + 2
    assert all(np.isfinite(m.value) for m in report.metrics)
    assert report.metric("test_error_on_unseen_density_and_4x_points", "GNO, weighted").value > 0
    assert (tmp_path / "figures" / "untrained.png").stat().st_size < 200_000

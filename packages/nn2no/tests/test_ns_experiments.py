"""The experiments on the Navier-Stokes equation: their data, losses, batches, models and bars."""

import collections
import itertools
import math

import numpy as np
import pytest
import torch
from nn2no.experiments import _navier_stokes as ns
from nn2no.experiments import ns_io_interpolation, ns_multi_res, ns_single_res
from nn2no.models.vit import ViTNO
from nn2no.multiresolution import MultiResolutionLoader
from nn2no.problems.navier_stokes import NavierStokes
from sciml.data import BatchLoader
from sciml.errors import ConfigError
from sciml.experiment import Experiment, RunDirectory
from sciml.grids import Grid
from sciml.runtime import Runtime
from sciml.training import Loader

EXPERIMENTS = (ns_single_res, ns_multi_res, ns_io_interpolation)


def two_loaders() -> MultiResolutionLoader:
    parts = [{"n": torch.full((k,), float(k)), "i": torch.arange(k)} for k in (12, 20)]
    loaders = [BatchLoader(part, size, seed=3) for part, size in zip(parts, (4, 2), strict=True)]
    return MultiResolutionLoader(loaders, seed=5)


def test_an_epoch_has_every_sample_of_every_resolution_once():
    loader = two_loaders()
    assert isinstance(loader, Loader)
    assert len(loader) == 3 + 10
    batches = list(loader.batches(2))
    assert [len(b["n"]) for b in batches] == [loader.batch_length(k) for k in range(len(loader))]
    counts = collections.Counter((int(n), int(i)) for b in batches for n, i in zip(b["n"], b["i"], strict=True))
    assert counts == {(n, i): 1 for n in (12, 20) for i in range(n)}


def test_the_order_is_a_function_of_seed_and_epoch_and_can_be_entered_anywhere():
    orders = [[i for i, _ in two_loaders().turns(epoch)] for epoch in range(20)]
    assert orders == [[i for i, _ in two_loaders().turns(epoch)] for epoch in range(20)]
    assert len({tuple(order) for order in orders}) > 15
    first = [two_loaders().turns(epoch)[0][0] for epoch in range(200)]
    assert np.mean(first) == pytest.approx(0.5, abs=0.1)
    shares = zip(*(two_loaders().batches(4, 0, rank, 2) for rank in range(2)), strict=False)
    joined = [torch.cat([part["i"] for part in parts]) for parts in itertools.islice(shares, 5)]
    whole = [b["i"] for b in two_loaders().batches(4)]
    assert all(torch.equal(a, b) for a, b in zip(whole, joined, strict=False))
    for start in (0, 5, 12):
        rest = [b["i"] for b in two_loaders().batches(4, start)]
        assert all(torch.equal(a, b) for a, b in itertools.zip_longest(whole[start:], rest))


@pytest.mark.unchecked
def test_a_loader_of_nothing():
    with pytest.raises(ConfigError, match="each resolution"):
        MultiResolutionLoader([])


def test_coarse_fields_are_read_off_fine_ones_and_inputs_standardised(tmp_path):
    run = RunDirectory(tmp_path, 0, Runtime("cpu"))
    fields = ns.load(ns.SMOKE_DATA, run, [16, 32])
    assert set(fields.train) == {16, 32}
    assert set(fields.test) == {8, 16, 32}
    x, y = fields.test[32]["x"], fields.test[32]["y"]
    assert x.shape == (16, 1, 32, 32)
    for n in (8, 16):
        assert torch.equal(fields.test[n]["x"], x[..., :: 32 // n, :: 32 // n])
        assert torch.equal(fields.test[n]["y"], y[..., :: 32 // n, :: 32 // n])
    std, mean = torch.std_mean(fields.train[16]["x"])
    assert float(std) == pytest.approx(1, abs=1e-5)
    assert abs(float(mean)) < 1e-5
    raw = NavierStokes(resolution=32).generate(16, run.seed("train"))
    torch.testing.assert_close(fields.train[32]["y"][:, 0], torch.as_tensor(raw["y"].values).float())
    scale = torch.as_tensor(raw["x"].values).float() / fields.train[32]["x"][:, 0]
    assert float(scale.std() / scale.mean()) < 0.05


def test_the_loss_of_the_authors_is_the_square_of_summed_norms():
    grid = Grid.uniform((8, 8), 2 * math.pi, periodic=True)
    a, b = torch.randn(3, 1, 8, 8).double(), torch.randn(3, 1, 8, 8).double()
    torch.testing.assert_close(ns.authors_loss(a, b), grid.norm(a - b).sum().square())


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_configurations_that_do_not_fit_are_refused(experiment):
    for data in ({"truth": 48}, {"test_resolutions": (32, 64)}, {"test_truth": 32}):
        with pytest.raises(ConfigError):
            experiment.EXPERIMENT.config("small", data=data)
    if experiment is ns_multi_res:
        for change in ({"train_resolutions": (16, 64)}, {"subjects": ("FNO",)}, {"train_resolutions": (32, 48)}):
            with pytest.raises(ConfigError):
                experiment.EXPERIMENT.config("small", **change)


def test_models_of_the_small_preset():
    """The 712,681 numbers of the FNO are the 0.671 million of the specification, plus 24² 4 · 2 (17 - 16) 9."""
    sizes = {kind: sum(p.numel() for p in ns.build(kind, ns.Models(), 32).parameters()) for kind in ("FNO", "U-Net")}
    assert sizes["U-Net"] == 1_072_093
    raw = ns.build("FNO", ns.Models(embedding="raw"), 32)
    assert sum(p.numel() for p in raw.parameters()) - 24**2 * 4 * 2 * 9 == 671_113


def test_models_of_the_paper_have_its_sizes():
    """In millions; ours have more spectral weights (2m + 1 wave numbers an axis instead of 2m)."""
    published = {
        "FNO": 65.0,
        "FNO + differential": 66.0,
        "FNO + local integral": 66.2,
        "U-Net": 65.5,
        "ViT": 63.9,
        "OFormer": 68.9,
    }
    config = ns_single_res.EXPERIMENT.config("paper")
    assert set(published) == set(config.kinds)
    with torch.device("meta"):
        for kind in config.kinds:
            count = sum(p.numel() for p in ns.build(kind, config.models, 128).parameters()) / 1e6
            assert published[kind] * 0.995 < count < published[kind] * 1.06, kind


def test_what_is_made_of_a_trained_model_is_the_model_on_its_grid():
    f = torch.randn(2, 1, 16, 16)
    for kind, others in (("FNO", 0), ("U-Net", 4), ("ViT", 1)):
        torch.manual_seed(0)
        model = ns.build(kind, ns.SMOKE_MODELS, 16)
        variants = ns.zero_shot(kind, model, ns.SMOKE_MODELS, 16)
        assert len(variants) == 1 + others
        for variant in variants.values():
            torch.testing.assert_close(variant(f), model(f), rtol=0, atol=1e-5)
    assert isinstance(ns.zero_shot("ViT", model, ns.SMOKE_MODELS, 16)["ViTNO"], ViTNO)


def test_multi_resolution_subjects_begin_with_the_same_weights():
    config = ns_multi_res.EXPERIMENT.config("smoke")
    states = []
    for subject in ("U-Net converted", "U-Net, interpolated kernels", "U-Net"):
        torch.manual_seed(0)
        states.append(list(ns_multi_res.makers(config)[subject]().state_dict().values()))
    for other in states[1:]:
        assert all(torch.equal(a, b) for a, b in zip(states[0], other, strict=True))


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_reports(experiment, tmp_path):
    found: Experiment = experiment.EXPERIMENT
    config = found.config("smoke")
    report = found.run(config, RunDirectory(tmp_path, 0, Runtime("cpu")))
    assert all(np.isfinite(m.value) for m in report.metrics)
    assert all(np.isfinite(b.value) for b in report.bars)
    assert (tmp_path / "figures" / "errors.png").stat().st_size < 200_000
    assert len({(m.name, m.subject) for m in report.metrics}) == len(report.metrics)
    assert report.metric("relative_l2_at_32", "U-Net converted" if experiment is not ns_io_interpolation else "U-Net")
    bars = {ns_single_res: 8, ns_multi_res: 2, ns_io_interpolation: 4}
    assert len(report.bars) == bars[experiment]
    assert any("published" in note for note in report.notes)


def test_bars_of_the_specification():
    """Those that its trials met, met; with the raw network's errors everywhere, missed."""
    config = ns_single_res.EXPERIMENT.config("small")
    trial = {
        "FNO": {"16": 0.0968, "32": 0.097, "64": 0.097},
        "U-Net": {"16": 0.552, "32": 0.231, "64": 0.806},
        "U-Net converted": {"16": 0.433, "32": 0.231, "64": 0.309},
        "U-Net, interpolated kernels": {"16": 1.62, "32": 0.231, "64": 0.365},
    }
    assert all(bar.met for bar in ns_single_res.bars(config, trial))
    same = dict.fromkeys(trial, trial["U-Net"])
    missed = [bar.claim for bar in ns_single_res.bars(config, same) if not bar.met]
    assert len(missed) == 6

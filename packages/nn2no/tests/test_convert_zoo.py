"""What the experiment on networks of others measures, and what it says of those that are refused or missing."""

import numpy as np
import pytest
import torch
from nn2no.experiments import convert_zoo
from nn2no.experiments.convert_zoo import EXPERIMENT, ZOO, Config, Network
from sciml.errors import ConfigError
from sciml.experiment import RunDirectory
from sciml.grids import Grid
from sciml.runtime import Runtime
from torch import nn


@pytest.fixture
def directory(tmp_path):
    return RunDirectory(tmp_path, 0, Runtime("cpu"))


@pytest.mark.parametrize(("base", "stride", "modes"), [(32, 1, 2), (32, 2, 2), (32, 4, 1), (32, 32, 1)])
def test_inputs_are_resolved_by_the_coarsest_level(base, stride, modes):
    network = Network(lambda n: nn.Conv2d(1, 1, 3, padding=1), base, stride, channels=1)
    found = convert_zoo.examine(network, Config(), 0)
    assert found["nodes_of_coarsest_level"] == base // stride
    assert found["modes"] == modes


@pytest.mark.parametrize("name", ["cnn", "resnet"])
def test_small_networks_meet_the_bars(name):
    """Acceptance A6."""
    torch.manual_seed(0)
    network = ZOO["nn2no"][name]
    found = convert_zoo.examine(network, Config(), 0)
    bars = convert_zoo._bars(name, network, found)
    assert len(bars) == 3
    assert [str(bar) for bar in bars[:2] if not bar.met] == []
    assert found["mismatch"] < found["raw_mismatch"]


def test_interpolating_networks_have_a_bar_on_their_mismatch():
    found = {"refused": 0, "base_difference": 0.0, "order": 1.0, "mismatch": 0.1, "raw_mismatch": 0.4}
    network = Network(lambda n: nn.Identity(), 32, 1, "linear")
    bars = convert_zoo._bars("a network", network, found)
    assert [bar.met for bar in bars] == [True] * 4
    assert bars[-1].value == 0.25
    assert not convert_zoo._bars("a network", network, {**found, "raw_mismatch": 0.3})[2].met


def test_refused_networks_and_sizes_are_reported_with_their_reasons(directory, monkeypatch):
    class OneSize(nn.Module):
        def forward(self, x):
            return x.reshape(len(x), 1, 32, 32)

    class Table(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Parameter(Grid.uniform((32, 32), periodic=True).coords[None, None, ..., 0].sin().float())

        def forward(self, x):
            return x + self.table

    networks = {"one size": Network(lambda n: OneSize(), 32, 1, channels=1)}
    networks["table"] = Network(lambda n: Table(), 32, 1, channels=1)
    monkeypatch.setattr(convert_zoo, "ZOO", {"nn2no": networks, "no_such_package": {"x": networks["table"]}})
    report = convert_zoo.run(Config(), directory)
    assert [report.metric("refused", f"nn2no {name}").value for name in networks] == [1, 0]
    assert not any("one size" in bar.claim for bar in report.bars)
    notes = "\n".join(report.notes)
    assert "nn2no one size is refused: 1 of 2 layers cannot be converted" in notes
    assert "nn2no table, not converted, takes no other sizes: The size of tensor a (256)" in notes
    assert "no_such_package is not installed: x left out" in notes


def test_all_grids_share_what_is_compared():
    base, fine = torch.arange(8.0)[None, None], torch.arange(0, 8, 0.25)[None, None]
    assert convert_zoo.up_to_last_node(base, (8,))[0, 0, -1] == 7
    assert convert_zoo.up_to_last_node(fine, (8,))[0, 0, -1] == 7
    vector = torch.zeros(1, 5)
    assert convert_zoo.up_to_last_node(vector, ()) is vector


def test_jump_between_the_sides_does_not_lower_the_order():
    torch.manual_seed(0)
    network = Network(lambda n: nn.Conv2d(1, 1, 5, padding=2), 32, 1, channels=1)
    assert convert_zoo.examine(network, Config(), 0)["order"] > 0.9


def test_last_or_main_output_is_compared():
    a, b = torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2)
    assert convert_zoo.field({"aux": a, "out": b}) is b
    assert convert_zoo.field({"logits": a, "hidden": b}) is a
    assert convert_zoo.field([a, (a, b)]) is b


@pytest.mark.unchecked
def test_pattern_of_no_network_is_refused(directory):
    with pytest.raises(ConfigError, match="'nobody' is the pattern of none; there are nn2no cnn, "):
        convert_zoo.run(Config(networks="nobody"), directory)


def test_report_has_numbers_bars_and_figure(directory, tmp_path):
    report = convert_zoo.run(EXPERIMENT.config("smoke"), directory)
    assert [bar for bar in report.bars if not bar.met] == []
    assert all(np.isfinite(m.value) for m in report.metrics)
    assert {m.subject for m in report.metrics} == {"nn2no cnn"}
    assert report.metric("error_4_8", "nn2no cnn").value < report.metric("error_2_4", "nn2no cnn").value / 3.5
    assert (tmp_path / "figures" / "nn2no.png").stat().st_size < 200_000


@pytest.mark.parametrize("package", [p for p in ZOO if p != "nn2no"])
def test_networks_of_others_can_be_made(package):
    pytest.importorskip(package)
    x = Grid.uniform((64, 64), periodic=True).coords.movedim(-1, 0)[None].float()
    for network in ZOO[package].values():
        if network.dim == 2:
            module = network.make(64).eval()
            with torch.no_grad():
                assert convert_zoo.field(module(x[:, :1].expand(-1, network.channels, -1, -1))).isfinite().all()

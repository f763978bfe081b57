"""The front door: create_model, create_optimizer and create_problem."""

import sys
import tempfile
import types

import pytest
import sciml
import torch
from sciml.errors import CheckpointError, ConfigError, UnknownNameError
from sciml.registry import Entry, installed


@pytest.fixture
def _optimizers(monkeypatch):
    entries = installed().entries["optimizers"]
    for name, attribute in (("test/sgd", "SGD"), ("test/whole", "TakesModule")):
        module = "torch.optim" if attribute == "SGD" else __name__
        monkeypatch.setitem(entries, name, Entry("optimizers", name, module, attribute, "test", "0"))
    monkeypatch.setattr(Entry, "load", lambda self: TakesModule if self.attribute == "TakesModule" else torch.optim.SGD)


class TakesModule(torch.optim.SGD):
    takes_module = True

    def __init__(self, module, lr=0.1):
        super().__init__(module.parameters(), lr=lr)


class PassesOptions(torch.optim.SGD):
    fixed = ("nesterov",)

    def __init__(self, params, lr=1e-3, **options):
        super().__init__(params, lr, **options)


def test_options_that_are_passed_on_are_those_of_the_base_class(monkeypatch):
    monkeypatch.setitem(
        installed().entries["optimizers"],
        "test/passes",
        Entry("optimizers", "test/passes", __name__, "PassesOptions", "test", "0"),
    )
    monkeypatch.setattr(Entry, "load", lambda self: PassesOptions)
    optimizer = sciml.create_optimizer("test/passes", [torch.ones(1)], momentum=0.5)
    assert (optimizer.defaults["lr"], optimizer.defaults["momentum"]) == (1e-3, 0.5)
    with pytest.raises(ConfigError, match="no argument nesterov"):
        sciml.create_optimizer("test/passes", [torch.ones(1)], nesterov=True)
    with pytest.raises(ConfigError, match="no argument momentun: did you mean momentum"):
        sciml.create_optimizer("test/passes", [torch.ones(1)], momentun=0.5)


def test_model_by_qualified_and_bare_name():
    model = sciml.create_model("pnde/nde", hidden=[4])
    assert model.config["hidden"] == [4]
    assert type(sciml.create_model("snde")) is sciml.models["pnde/snde"].load()


def test_pretrained_models_predict_unseen_trajectories():
    u = torch.tensor(sciml.create_problem("pnde/double-pendulum", duration=1.0).generate(10, seed=999).state.values)
    t = torch.arange(21, dtype=torch.float64) * 0.05
    error = {}
    for name in ("nde", "pnde-metric"):
        solution = sciml.create_model(f"pnde/{name}", pretrained=True).solve(u[:, 0], t).u
        error[name] = float(((solution - u).norm(dim=-1) / u.norm(dim=-1)).mean())
    assert error["pnde-metric"] < 0.1 < error["nde"]  # measured: 0.03 and 0.43 on 25 trajectories
    assert sciml.create_model("pnde/pnde-metric", pretrained=True, hidden=(128, 128, 128)).config["hidden"] == [128] * 3
    with pytest.raises(ConfigError, match="has metric='mechanics', not 'algebraic'"):
        sciml.create_model("pnde/pnde-metric", pretrained=True, metric="algebraic")


def test_model_arguments_and_missing_weights_are_explained(monkeypatch):
    monkeypatch.setattr("sciml.create.pretrained_directory", lambda entry: None)
    with pytest.raises(ConfigError, match="no argument hiden: did you mean hidden"):
        sciml.create_model("pnde/nde", hiden=[4])
    with pytest.raises(ConfigError, match="ships no pretrained weights"):
        sciml.create_model("pnde/nde", pretrained=True)
    with pytest.raises(UnknownNameError, match=r"sciml\[noble\]=="):
        sciml.create_model("noble/pvalb")


def test_problem_fields_are_validated():
    assert sciml.create_problem("double-pendulum", n_links=3).config()["n_links"] == 3
    with pytest.raises(ConfigError, match="n_links='many'"):
        sciml.create_problem("pnde/double-pendulum", n_links="many")
    with pytest.raises(ConfigError, match="did you mean n_links"):
        sciml.create_problem("pnde/double-pendulum", n_link=2)


@pytest.mark.usefixtures("_optimizers")
def test_optimizer_takes_parameters_groups_or_a_module():
    module = torch.nn.Linear(2, 1)
    for target in (module, module.parameters(), [{"params": [module.weight], "lr": 0.5}]):
        assert isinstance(sciml.create_optimizer("test/sgd", target, lr=0.1), torch.optim.SGD)
    assert len(sciml.create_optimizer("test/whole", module).param_groups[0]["params"]) == 2
    with pytest.raises(ConfigError, match="needs the module itself"):
        sciml.create_optimizer("test/whole", module.parameters())
    with pytest.raises(ConfigError, match="no argument lrr: did you mean lr"):
        sciml.create_optimizer("test/sgd", module, lrr=0.1)


def test_models_come_from_the_hub_through_links_and_leave_no_copy(tmp_path, monkeypatch):
    sciml.create_model("pnde/nde", hidden=[4]).save_pretrained(tmp_path / "blobs")
    (tmp_path / "snapshot").mkdir()
    for file in ("config.json", "model.safetensors"):
        (tmp_path / "snapshot" / file).symlink_to(tmp_path / "blobs" / file)
    asked = []

    def snapshot_download(name, revision, allow_patterns):
        asked.append((name, revision, sorted(allow_patterns)))
        if name == "owner/missing":
            raise OSError("404")
        return str(tmp_path / "snapshot")

    hub = types.ModuleType("huggingface_hub")
    hub.snapshot_download = snapshot_download  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    model = sciml.load("hf://owner/name@v1")
    assert model.config["hidden"] == [4]
    assert asked == [("owner/name", "v1", ["config.json", "model.safetensors"])]
    assert list((tmp_path / "temporary").iterdir()) == []
    with pytest.raises(CheckpointError, match="hf://owner/missing could not be fetched: 404"):
        sciml.load("hf://owner/missing")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(CheckpointError, match=r'pip install "sciml-core\[hub\]=='):
        sciml.load("hf://owner/name")

"""The suite passes what is right, and names the cause of each planted defect."""

import functools
import io
import sys
from pathlib import Path

import pytest
import torch
from sciml.errors import UnknownNameError
from sciml.registry import Entry, Installed, installed
from sciml_testkit import ConformanceError, check, conformance, measures
from sciml_testkit.experiments import _Driver
from sciml_testkit.properties import PROPERTIES
from sciml_testkit.suite import CHECKS, cases

IMPORTABLE = Path(__file__).parent / "importable"


@pytest.fixture
def register(monkeypatch):
    """Registers a class of `planted` as `planted/it`."""
    monkeypatch.syspath_prepend(IMPORTABLE)

    def put(kind: str, attribute: str, module: str = "planted") -> None:
        entry = Entry(kind, "planted/it", module, attribute, "sciml-testkit", "0.1.0")
        monkeypatch.setitem(installed().entries[kind], "planted/it", entry)

    return put


@pytest.mark.parametrize(
    ("kind", "attribute"),
    [
        ("models", "Shears"),
        ("models", "PairShears"),
        ("models", "OnCircle"),
        ("models", "Smoothing"),
        ("optimizers", "Momentum"),
        pytest.param("experiments", "ONCE", marks=pytest.mark.slow),
    ],
)
def test_what_is_right_passes(register, tmp_path, kind, attribute):
    register(kind, attribute)
    check(kind, "planted/it", tmp_path)


def test_a_problem_that_its_refinement_agrees_with_passes(register, tmp_path, monkeypatch):
    register("problems", "Waves")
    monkeypatch.setattr("planted.Waves.refined", lambda self: self, raising=False)
    monkeypatch.setattr("planted.Waves.accuracy", 1e-12, raising=False)
    check("problems", "planted/it", tmp_path)


def test_convergence_that_cannot_be_measured_is_skipped_after_all_other_checks(register, tmp_path, monkeypatch):
    register("problems", "Waves")
    with pytest.raises(pytest.skip.Exception, match=r"planted/it has no refined\(\), so the convergence"):
        check("problems", "planted/it", tmp_path)
    assert len([*tmp_path.iterdir()]) == len(CHECKS["problems"])
    monkeypatch.delenv("PYTEST_CURRENT_TEST")  # as outside pytest
    check("problems", "planted/it", tmp_path)


def test_samples_of_a_problem_that_needs_files_are_not_checked(register, tmp_path, monkeypatch):
    register("problems", "NeedsFiles")
    with pytest.raises(pytest.skip.Exception, match=r"planted/it needs waves\.csv, so its samples are not checked"):
        check("problems", "planted/it", tmp_path)
    monkeypatch.delenv("PYTEST_CURRENT_TEST")
    check("problems", "planted/it", tmp_path)


SETTINGS = {
    "SGD": {"lr": 0.1},
    "Adam": {"lr": 1e-2},
    "AdamW": {"lr": 1e-2, "weight_decay": 0.0},
    "RMSprop": {"lr": 1e-2},
    "Adagrad": {"lr": 1.0},
}


@pytest.mark.parametrize("optimizer", SETTINGS)
def test_torch_optimizers_pass(register, tmp_path, monkeypatch, optimizer):
    example = staticmethod(lambda: SETTINGS[optimizer])
    monkeypatch.setattr(getattr(torch.optim, optimizer), "example", example, raising=False)
    register("optimizers", optimizer, "torch.optim")
    check("optimizers", "planted/it", tmp_path)


def test_the_flaw_of_torch_lbfgs_is_found(register, tmp_path):
    register("optimizers", "LBFGS", "torch.optim")
    with pytest.raises(ConformanceError, match="parameters that are not contiguous end in RuntimeError"):
        check("optimizers", "planted/it", tmp_path)


@pytest.mark.parametrize(
    ("kind", "attribute", "cause"),
    [
        ("models", "NotSymplectic", r"is declared symplectic, but its Jacobian J breaks JᵀΩJ = Ω by"),
        ("models", "Undeclared", "declared property 'beautiful' has no measurement"),
        ("models", "NotJson", "config of example.. is not JSON: Object of type Tensor"),
        ("models", "NotJsonInside", "its config is not JSON: Object of type Parameter"),
        ("models", "BatchNormalised", "output depends on the batch size: sample 0 alone and among 7 differ by"),
        ("models", "LosesDtype", "the dtype of weights is lost by save → load: torch.float32 became torch.float64"),
        ("models", "LosesNested", r"the argument options is lost by save → load: {'scale': 2.0} became None"),
        ("models", "HasIdleParameter", "no gradient reaches the parameter idle"),
        ("models", "AcceptsAnything", "integers as input are accepted"),
        ("models", "OffCircle", "is declared on-manifold, but its outputs miss it: the constraint is 2.0e-03"),
        (
            "models",
            "SumsPoints",
            r"declared discretization-convergent, but .* an order of -?0\.\d+; expected at least",
        ),
        ("models", "HasNoResolution", "declared discretization-convergent, but example.. takes no resolution"),
        ("optimizers", "OneRateForAll", "parameters of a group with 1000 times smaller lr move .* times as far"),
        (
            "optimizers",
            "ForgetsVelocity",
            "after 1 steps it departs from the undisturbed run: its state does not round-trip",
        ),
        ("optimizers", "KeepsItsRate", r"at step 5 under a schedule that reaches lr=0 after 4 steps, parameters move"),
        ("optimizers", "TellsTensors", r"diagnostics\(\) after 0 steps has {'rate': tensor"),
        ("optimizers", "StrangeState", r"state_dict\(\)\['state'\]\[0\]\['strange'\] is a object"),
        ("optimizers", "ClosureWithoutGradients", "calls it without gradients"),
        ("optimizers", "GrowsInTheDark", "after 205 steps with gradients of zero, five more with their true ones end"),
        ("optimizers", "CannotBeEmpty", "vanishing gradients: it ends in RuntimeError"),
        ("optimizers", "MinimisesAlways", "with maximize=True, -f is not maximised"),
        ("optimizers", "ScalesItself", "it takes a step where gradients are infinite"),
        ("optimizers", "MovesRealParts", "complex parameters do not move as pairs of real ones"),
        ("optimizers", "CapturesOthers", "with capturable=True it takes other steps"),
        ("problems", "DependsOnWorkers", "its data depend on the worker count .u differs."),
        ("problems", "HasNoUnits", "the variable u has no units"),
        ("problems", "NeedsFilesSilently", r"without waves\.csv it raises FileNotFoundError.* raise .*DataError"),
        ("problems", "NeedsNothing", "it needs waves.csv, but makes samples by default"),
        ("problems", "NotConverged", r"refined, u changes by .* it claims 1.0e-06"),
        ("experiments", "UNSOURCED", "paper is empty"),
        pytest.param(
            "experiments", "ANEW", r"cannot resume: .* other metrics \(sum of numbers\)", marks=pytest.mark.slow
        ),
        pytest.param("experiments", "ONCE_ONLY", "cannot resume: .* fails when resumed", marks=pytest.mark.slow),
        ("models", "ONCE", "register a subclass of sciml.Model"),
    ],
)
def test_planted_defects_are_named(register, tmp_path, kind, attribute, cause):
    register(kind, attribute)
    with pytest.raises(ConformanceError, match=cause):
        check(kind, "planted/it", tmp_path)


def test_an_entry_point_that_raises_on_import_is_named(register, tmp_path):
    register("models", "Anything", "raises_on_import")
    with pytest.raises(
        ConformanceError, match=r"distribution sciml-testkit 0.1.0 failed with RuntimeError: this plugin needs"
    ):
        check("models", "planted/it", tmp_path)


def test_each_registered_name_and_check_is_one_case(register):
    register("models", "Shears")
    register("problems", "Waves")
    ids = [case.id for case in cases("sciml-testkit")]
    assert "model planted/it: saves and loads" in ids
    assert "problem planted/it: fields are json" in ids


def test_listing_cases_imports_no_plugin(register):
    register("models", "Anything", "raises_on_import")
    assert list(cases("sciml-testkit"))
    assert "raises_on_import" not in sys.modules


def test_what_registers_nothing_is_refused(monkeypatch):
    with pytest.raises(ConformanceError, match=r"'nothing' registers nothing: is it installed"):
        conformance("nothing")
    broken = Installed({kind: {} for kind in installed().entries}, {}, {"bad": "the entry points of bad are malformed"})
    monkeypatch.setattr("sciml_testkit.suite.installed", lambda: broken)
    with pytest.raises(ConformanceError, match="malformed"):
        conformance("bad")


def test_unknown_kinds_and_names_are_refused(tmp_path):
    with pytest.raises(UnknownNameError, match="choose one of models"):
        check("model", "pnde/nde", tmp_path)
    with pytest.raises(UnknownNameError):
        check("models", "pnde/nothing", tmp_path)


def test_a_property_of_ones_own_is_measured(register, tmp_path, monkeypatch):
    monkeypatch.delitem(PROPERTIES, "beautiful", raising=False)

    @measures("beautiful")
    def beautiful(model, inputs):
        raise AssertionError("it is plain")

    register("models", "Undeclared")
    with pytest.raises(ConformanceError, match="planted/it is declared beautiful, but it is plain"):
        check("models", "planted/it", tmp_path)
    del PROPERTIES["beautiful"]


@pytest.mark.parametrize("ended", [True, False])
def test_a_process_of_experiments_that_gives_no_answer_is_told(tmp_path, monkeypatch, ended):
    monkeypatch.setattr("sciml_testkit.experiments._driver", functools.cache(_Driver))  # others keep theirs
    driver = _Driver()
    if ended:
        driver.process.kill()
    else:  # as of a request that was interrupted
        monkeypatch.setattr(driver.process, "stdout", io.StringIO('{"folder": "another", "statuses": []}\n'))
    entry = Entry("experiments", "planted/it", "planted", "ONCE", "sciml-testkit", "0.1.0")
    with pytest.raises(
        ConformanceError, match="planted/it: the process that runs experiments ended, with the status -9"
    ):
        driver.statuses(entry, tmp_path)

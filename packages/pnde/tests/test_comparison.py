"""What experiments measure, on trajectories whose errors are known."""

import numpy as np
import pytest
import torch
from pnde import NDE, PNDE, PNODE, SNDE, LotkaVolterra, LotkaVolterraInvariant, Status
from pnde.experiments import ieee14, lotka_volterra, pendulums, small_systems
from pnde.experiments.comparison import Kind, _free, _Repeat, compare, roll_out, states_of
from pnde.experiments.figures import errors_over_time, phase_portraits
from pnde.experiments.rollouts import Comparisons, Rollouts, measure, merge, table
from pnde.experiments.windows import WindowLoss, window_starts, windows
from pnde.solvers import Solution
from sciml.config import override
from sciml.errors import ConfigError, DataError
from sciml.experiment import Bar, Metric, RunDirectory
from sciml.runtime import Runtime


def test_loss_is_the_mean_square_in_units_of_std_after_the_first_state():
    t, std = torch.arange(3).double(), torch.tensor([2.0, 0.5]).double()
    u = torch.randn(4, 3, 2, dtype=torch.float64)
    error = torch.zeros(4, 3, 2, dtype=torch.float64)
    loss = WindowLoss(t, std)

    def predicted(u0, times):
        assert torch.equal(u0, u[:, 0])
        assert torch.equal(times, t)
        return u + error

    error[:, 0] = 1  # at the given state
    assert loss(predicted, {"u": u}) == 0
    error[0, 2] = torch.tensor([3.0, 1.0])  # in the first window
    assert float(loss(predicted, {"u": u})) == pytest.approx((1.5**2 + 2.0**2) / (4 * 2 * 2))


def test_windows_share_their_ends_and_know_their_start():
    t = torch.arange(11).double()
    u = torch.stack([t, 100 + t])[..., None]
    cut, starts = windows(u, 3), window_starts(t, 2, 3)
    expected = torch.tensor([0, 3, 6, 100, 103, 106])[:, None] + torch.arange(4)
    assert torch.equal(cut[:, :, 0], expected.double())
    assert torch.equal(starts, cut[:, 0, 0] % 100)


def test_penalty_is_the_mean_square_of_what_the_constraint_misses():
    invariant, u = LotkaVolterraInvariant(), 1 + torch.rand(5, 4, 2, dtype=torch.float64)
    t, std = torch.arange(4).double(), torch.ones(2).double()
    guess = u + 0.1
    plain = WindowLoss(t, std)(lambda u0, times: guess, {"u": u})
    whole = WindowLoss(t, std, 3.0, invariant)(lambda u0, times: guess, {"u": u})
    missed = (invariant(None, guess) - invariant(None, u[:, :1])).square().mean()
    assert float(whole - plain) == pytest.approx(3 * float(missed))


def test_windows_that_are_not_solved_do_not_count_and_leave_gradients_finite():
    t, std = torch.linspace(0, 1, 5).double(), torch.ones(2).double()
    model = NDE(state_dim=2, hidden=(4,), second_order=False)
    model.base.net.forward = lambda x: x.square() * model.base.net.out.bias.exp()
    u = torch.rand(3, 5, 2, dtype=torch.float64)
    u[1, 0] = 1e200  # blows up
    strict = WindowLoss(t, std)(model, {"u": u})
    loss = WindowLoss(t, std, only_solved=True)(model, {"u": u})
    loss.backward()
    assert strict.isnan()
    torch.testing.assert_close(loss.detach(), WindowLoss(t, std)(model, {"u": u[[0, 2]]}).detach())
    assert model.base.net.out.bias.grad.isfinite().all()


def test_test_windows_that_are_not_solved_are_counted_and_not_averaged(tmp_path):
    config = pendulums.EXPERIMENT.presets["smoke"]
    repeat = _Repeat(config, RunDirectory(tmp_path, 0, Runtime("cpu")), "")
    (kind,) = (kind for kind in config.kinds() if kind.label == "NDE")
    model, t, u0 = kind.make(), repeat.t, repeat.test[:, 0]
    usual = repeat._solve(kind, model, u0, t, {})
    u = torch.cat([batch["u"] for batch in repeat.batches["test"].batches(0)])
    whole = float(WindowLoss(repeat.window, repeat.std)(model, {"u": u}).detach())
    assert (usual["window_mse"], usual["window_mse_undefined"]) == (pytest.approx(whole, rel=1e-12), 0)
    forward, first = model.forward, u[0, 0].clone()

    def with_a_failure(u0, *rest):
        return forward(u0, *rest).where((u0 != first).any(-1)[:, None, None], torch.nan)

    model.forward = with_a_failure
    found = repeat._solve(kind, model, u0, t, {})
    rest = float(WindowLoss(repeat.window, repeat.std)(model, {"u": u[1:]}).detach())
    assert (found["window_mse"], found["window_mse_undefined"]) == (pytest.approx(rest, rel=1e-12), 1)


def rollouts(factor: float, solved: list[bool]) -> Rollouts:
    """Four trajectories on the unit circle, scaled: the relative error is |factor - 1| at all times."""
    t = torch.linspace(0, 1, 6).double()
    reference = torch.stack([t.cos(), t.sin()], -1).expand(4, 6, 2)
    ok = torch.tensor(solved)
    u = (factor * reference).where(ok[:, None, None], torch.nan)
    error, drift = (u - reference).norm(dim=-1), (u.norm(dim=-1) - 1).abs()
    return Rollouts(u, reference, ok, t, error, {"radius_error": drift}, {"radius_error": 2})


def test_diverged_trajectories_are_counted_and_in_no_mean():
    found = measure(rollouts(1.1, [True, True, False, True]))
    assert found["unsolved"] == found["diverged"] == 1
    for name in ("relative_state_error", "relative_state_error_median", "radius_error_end", "radius_error_max"):
        assert found[name] == pytest.approx(0.1), name
    assert found["state_mse"] == pytest.approx(0.01 / 2)
    assert found["radius_error_mse"] == pytest.approx(0.01 / 2)  # over the two components, as that of states
    assert found["valid_prediction_time"] == pytest.approx(1)


def test_solved_trajectories_that_run_away_have_diverged_too():
    found = measure(rollouts(20.0, [True, True, False, True]))
    assert (found["unsolved"], found["diverged"]) == (1, 4)
    assert found["relative_state_error"] == pytest.approx(19)


def test_where_the_constraint_has_no_value_trajectories_are_counted():
    parts = rollouts(1.1, [True] * 4)
    parts.drifts["radius_error"][2, 3:] = torch.nan
    found = measure(parts)
    assert found["radius_error_undefined"] == 1
    assert found["radius_error_end"] == pytest.approx(0.1)


def test_nothing_solved_is_no_number_and_meets_no_bar():
    found = measure(rollouts(1.1, [False] * 4))
    assert np.isnan(found["radius_error_end"])
    assert not Bar("anything", found["relative_state_error"], 1e9).met


def test_the_table_has_means_sums_and_largest_values_and_every_repeat():
    parts = [rollouts(1.1, [True] * 4), rollouts(1.3, [True, False, True, True])]
    rows = table("X", merge(parts), [{"window_mse": 1.0, **measure(part)} for part in parts])
    found = Comparisons(rows, {"X": merge(parts)}, {}, 2)
    assert found.value("relative_state_error", "X") == pytest.approx(0.2)
    assert found.each("relative_state_error", "X") == pytest.approx([0.1, 0.3])
    assert found.worst("radius_error_end", "X") == pytest.approx(0.3)
    assert found.value("radius_error_max", "X") == pytest.approx(0.3)
    assert found.value("diverged", "X") == 1
    means = np.array([0.1] * 4 + [0.3] * 3)
    assert found.value("relative_state_error_ci95", "X") == pytest.approx(1.96 * means.std(ddof=1) / 7**0.5)
    assert len(errors_over_time(found).axes) == 2
    assert len(phase_portraits(found, [0], [1]).axes) == 1


def test_the_free_field_trains_the_weights_of_the_projected_model():
    model = PNDE(hidden=(4,))
    free, u0, t = _free(model), NDE.example().inputs[0], torch.linspace(0, 0.1, 2).double()
    assert {id(p) for p in free.parameters()} == {id(p) for p in model.parameters()}
    same = NDE(hidden=(4,))
    same.base.load_state_dict(model.base.state_dict())
    torch.testing.assert_close(free(u0, t), same(u0, t), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("label", "slug"),
    [
        ("PNDE", "pnde"),
        ("SNDE γ=0.1", "snde-gamma0.1"),
        ("NDE, penalty ρ=1", "nde-penalty-rho1"),
        ("PNDE, E and L", "pnde-e-and-l"),
    ],
)
def test_labels_become_names_of_directories(label, slug):
    assert Kind(label, SNDE).slug == slug


@pytest.mark.unchecked
@pytest.mark.parametrize(
    ("preset", "changes", "match"),
    [
        (small_systems.RIGID_BODY, {"tolerance": -1e-8}, "tolerance"),
        (lotka_volterra.EXPERIMENT, {"stabilization": -1.0}, "stabilization"),
        (lotka_volterra.EXPERIMENT, {"penalty": float("nan")}, "penalty"),
        (lotka_volterra.EXPERIMENT, {"skip": True, "hidden": [8, 16]}, "hidden.*one width"),
        (pendulums.EXPERIMENT, {"stabilizations": [20.0, 20.0]}, "snde-gamma20 are compared more than once"),
        (ieee14.EXPERIMENT, {"long_tolerance": 0.0}, "long_tolerance"),
        (ieee14.EXPERIMENT, {"long_duration": 2.5}, "long_duration=2.5 must be a whole number"),
        (lotka_volterra.EXPERIMENT, {"data": {"test_duration": 0.2}}, "training.window=.* is longer than the 4 steps"),
    ],
    ids=lambda x: next(iter(x)) if isinstance(x, dict) else "",
)
def test_what_cannot_be_trained_is_no_configuration(preset, changes, match):
    with pytest.raises(ConfigError, match=match):
        override(preset.presets["smoke"], changes)


def test_data_of_other_components_are_refused():
    problem = LotkaVolterra(duration=0.2, time_step=0.1)
    data = problem.generate(1, seed=0)
    assert states_of(data, problem).shape == (1, 3, 2)
    with pytest.raises(DataError, match="the components of the data are"):
        states_of(data.isel(component=[1, 0]), problem)


@pytest.mark.unchecked
def test_models_that_cannot_be_made_end_a_run_before_data_are_computed():
    class Broken(lotka_volterra.Config):
        def kinds(self):
            return [Kind("NDE", lambda: NDE(state_dim=2)), Kind("PNDE", lambda: PNDE(state_dim=3, second_order=False))]

    class Run:
        def generate(self, *args):
            raise AssertionError("nothing is generated")

    with pytest.raises(ConfigError, match="state_dim is 3"):
        compare(Broken(), Run())


def test_free_epochs_are_those_of_every_model_with_a_constraint(tmp_path):
    class Few(lotka_volterra.Config):
        def kinds(self):
            common = {"state_dim": 2, "hidden": (4,), "second_order": False}
            kept = {**common, "constraint": "lotka-volterra"}
            return [
                Kind("NDE", lambda: NDE(**common)),
                Kind("PNDE", lambda: PNDE(**kept)),
                Kind("PNODE", lambda: PNODE(**kept)),
            ]

    smoke = lotka_volterra.EXPERIMENT.presets["smoke"]
    names = []

    class Run(RunDirectory):
        def train(self, name, *args, **options):
            names.append(name)
            return super().train(name, *args, **options)

    training = override(smoke.training, {"free_epochs": 1, "epochs": 1})
    compare(Few(repeats=1, data=smoke.data, training=training), Run(tmp_path, 0, Runtime("cpu")))
    assert names == ["nde", "pnde-free", "pnde", "pnode-free", "pnode"]


@pytest.mark.parametrize("duration", [1.0, 3.0, 7.5, 20.0])
def test_the_grid_is_judged_at_the_end_of_any_time(duration):
    smoke = ieee14.EXPERIMENT.presets["smoke"]
    config = override(smoke, {"data": {"test_duration": duration}, "stabilizations": [1.0]})
    labels = ("PNDE", "SNDE γ=1")
    parts = {label: rollouts(factor, [True] * 4) for label, factor in zip(labels, (1.1, 1.2), strict=True)}
    metrics = [m for label in labels for m in table(label, parts[label], [measure(parts[label])])]
    metrics += [
        Metric(name, "PNDE", 0.0)
        for name in ("power_error_end", "slack_error_max", "long_diverged", "long_power_error_end")
    ]
    at_end, over_snde, *_ = ieee14.bars(Comparisons(metrics, parts, {}, 1), metrics, config)
    assert (at_end.value, over_snde.value) == (pytest.approx(0.1), pytest.approx(0.5))


def test_algebraic_roll_outs_end_before_the_load_voltages_cease_to_exist():
    """The inverters' voltages are taken down: the loads' cannot follow."""
    config = ieee14.EXPERIMENT.presets["smoke"]
    problem = config.problem(1.0)
    (kind,) = (kind for kind in config.kinds() if kind.label == "PNDE algebraic")
    model = kind.make()
    torch.nn.init.zeros_(model.base.net.out.weight)
    with torch.no_grad():
        model.base.net.out.bias[:14], model.base.net.out.bias[14:] = -0.1, 0
    u0, t = torch.tensor(problem.grid.operating_point())[None], torch.linspace(0, 20, 201).double()
    found = roll_out(kind, model, u0, t, max_steps=300)
    assert found.status.tolist() == [Status.EVENT]
    G_y = model.constraint.jacobian(None, found.event_u)[..., ieee14.algebraic_components(problem)]
    assert float(torch.linalg.svdvals(G_y)[..., -1]) == pytest.approx(ieee14.REGULAR, abs=1e-6)
    assert found.event_u.isfinite().all()


def test_the_error_at_the_end_is_that_of_the_last_time():
    parts = rollouts(1.1, [True] * 4)
    parts.error[:, -1] = torch.tensor([1.0, 2.0, 3.0, 4.0])
    assert measure(parts)["relative_state_error_end"] == pytest.approx(2.5)


def test_windows_of_a_large_condition_of_the_gram_matrix_are_left_out(tmp_path):
    """κ(G Gᵀ), the square of κ(G)."""
    smoke = pendulums.EXPERIMENT.presets["smoke"]
    run = RunDirectory(tmp_path, 0, Runtime("cpu"))
    every = _Repeat(smoke, run, "")
    u = torch.cat([batch["u"] for batch in every.batches["train"].batches(0)])
    G = every.constraint.jacobian(None, u)
    condition = torch.linalg.cond(G @ G.mT).amax(1)
    middle = float(condition.median()) * 1.001
    assert float(condition.max()) > middle
    limited = override(smoke, {"training": {"largest_condition": middle}})
    kept = sum(
        len(b["u"]) for b in _Repeat(limited, RunDirectory(tmp_path, 0, Runtime("cpu")), "").batches["train"].batches(0)
    )
    assert kept == int((condition <= middle).sum())


@pytest.mark.parametrize(("factor", "diverged"), [(1.4, 0.0), (1.6, 1.0)])
def test_long_roll_outs_are_bounded_by_the_largest_voltage_of_the_references(factor, diverged, tmp_path, monkeypatch):
    monkeypatch.setattr(RunDirectory, "figure", lambda *args: None)
    config = override(ieee14.EXPERIMENT.presets["smoke"], {"long_test": 1})
    start = torch.tensor(config.problem(1.0).grid.operating_point())

    class Scaled(NDE):
        def solve(self, u0, t, **options):
            u = (u0[:, None] * torch.linspace(1, factor, len(t)).double()[:, None]).detach()
            return Solution(t, u, torch.zeros(1), 0, torch.zeros(1), torch.zeros(1))

    (kind,) = (kind for kind in config.kinds() if kind.label == "PNDE")
    monkeypatch.setattr(ieee14.Config, "kinds", lambda self: [kind])
    reference = start.expand(1, 11, 28)
    found = Rollouts(reference, reference, torch.ones(1) > 0, torch.linspace(0, 1, 11), reference[..., 0], {}, {})
    metrics = ieee14._beyond(
        Comparisons([], {"PNDE": found}, {"PNDE": Scaled(hidden=(4,))}, 1),
        config,
        RunDirectory(tmp_path, 0, Runtime("cpu")),
    )
    value = {metric.name: metric.value for metric in metrics}
    assert (value["long_diverged"], value["long_largest_voltage"]) == (diverged, pytest.approx(factor))

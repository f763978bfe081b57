"""Solutions of the models: events in states, empty batches, warnings where they are caused."""

import warnings

import pytest
import torch
from pnde import NDE, PNDE, AngularNDE, NeuralODE, OffManifoldWarning, Status
from pnde.models.angular import to_angles

F64 = torch.float64
T = torch.linspace(0, 1, 3, dtype=F64)


def test_events_of_a_model_in_angles_are_of_states():
    """The end of a link that turns from below reaches x = 1/2."""
    torch.manual_seed(0)
    seen, model = [], AngularNDE(n_links=1, hidden=(4,))

    def event(t, u):
        seen.append(u.shape)
        return u[:, 0] - 0.5

    u0 = torch.tensor([[0.0, -1.0, 2.0, 0.0], [0.0, -1.0, -2.0, 0.0]], dtype=F64)
    found = model.solve(u0, T[:2], event=event, tol=1e-9)
    assert {shape[1] for shape in seen} == {4}
    assert found.status.tolist() == [Status.EVENT, Status.SUCCESS]
    assert found.event_u.shape == (2, 4)
    assert float(found.event_u[0, 0]) == pytest.approx(0.5, abs=1e-9)
    again = model.solve(u0[:1], torch.stack([T[0], found.event_time[0]]), tol=1e-9)
    torch.testing.assert_close(again.u[0, -1], found.event_u[0], rtol=0, atol=1e-7)
    assert to_angles(found.event_u[:1]).shape == (1, 2)
    assert found.event_u[1].isnan().all()


@pytest.mark.parametrize("start", [None, torch.zeros(0, dtype=F64)])
@pytest.mark.parametrize("model", [NDE, PNDE, AngularNDE])
def test_an_empty_batch_of_a_model(model, start):
    empty = torch.zeros(0, 8, dtype=F64)
    assert model(hidden=(4,))(empty, T, None, start).shape == (0, 3, 8)
    assert model(hidden=(4,)).solve(empty, T).u.shape == (0, 3, 8)


def test_a_warning_of_initial_states_shows_the_line_that_solves(monkeypatch):
    monkeypatch.setattr("pnde.neural_ode.LIBRARIES", ("pnde", "torch", "jaxtyping", "beartype", "conftest"))  # checks
    u0 = torch.randn(2, 8, generator=torch.Generator().manual_seed(0)).double()
    model = PNDE(hidden=(4,))
    for solve in (lambda: model.solve(u0, T[:2] / 10), lambda: NeuralODE(model.dynamics)(u0, T[:2] / 10)):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            solve()
        shown = [w.filename for w in caught if w.category is OffManifoldWarning]
        assert shown == [__file__]


@pytest.mark.unchecked
def test_times_of_a_model_are_a_tensor():
    with pytest.raises(TypeError, match=r"t must be a tensor; got list.*torch.as_tensor"):
        PNDE(hidden=(4,)).solve(torch.randn(2, 8).double(), [0.0, 1.0])


def test_training_takes_as_many_steps_as_there_are_outputs():
    t = torch.linspace(0, 1e-3, 10_100, dtype=F64)
    with torch.no_grad():
        u = NDE(state_dim=2, hidden=(), second_order=False)(torch.ones(1, 2, dtype=F64), t)
    assert u.isfinite().all()

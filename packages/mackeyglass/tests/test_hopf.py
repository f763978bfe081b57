import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mackeyglass import DDE, MackeyGlass
from mackeyglass.characteristic import characteristic_roots, generator, lambert_roots, unstable_roots
from mackeyglass.errors import ContinuationError
from mackeyglass.hopf import hopf_asymptote, hopf_curve, hopf_points, locate_hopf
from mackeyglass.hopf_curves import continue_hopf
from mackeyglass.linearisation import equilibrium, linearise_at
from mackeyglass.normal_form import HopfPoint, derivative, hopf_normal_form
from sciml.errors import ConfigError
from scipy import linalg

TAUS = (1.0, 1.1, 2.0, 2.6)
CURVES = {
    0: [
        (6.523652668, 2.028757838),
        (6.247668276, 1.873678586),
        (5.039605122, 1.144464864),
        (4.720163753, 0.921858292),
    ],
    1: [
        (18.082177284, 7.978665712),
        (16.665704400, 7.264345902),
        (10.339536263, 4.048081802),
        (8.589576137, 3.139367519),
    ],
}


def logistic(alpha=1.5, tau=1.0):
    return DDE(lambda x, y, p: -p.alpha * y * (1 + x), ["tau"], {"alpha": alpha, "tau": tau})


def tanh_equation(a=1.0, b=-2.0, tau=1.5):
    return DDE(lambda x, y, p: -p.a * x + p.b * torch.tanh(y), ["tau"], {"a": a, "b": b, "tau": tau})


def neurons(strength=2.0, forward=0.4, back=0.3):
    """A ring of two neurons, x₁ → x₂ → −x₁, with a delay for each way and a bias that leaves no symmetry."""

    def rhs(x, y, z, p):
        return torch.stack([-x[0] - p.strength * torch.tanh(z[1] + 0.3), -x[1] + p.strength * torch.tanh(y[0] - 0.2)])

    return DDE(rhs, ["forward", "back"], {"strength": strength, "forward": forward, "back": back}, dim=2)


def amplitude_squared(point, parameter, step=1e-5):
    """Of the first component of the orbits that are born, by the distance of the parameter: (2|z|)², z = O(ε^½)."""
    values = [point.parameters[parameter] + sign * step for sign in (1, -1)]
    ahead, behind = (
        characteristic_roots(point.system.with_parameters(**{parameter: v}), point.equilibrium, k=1)[0] for v in values
    )
    return -4 * (ahead - behind).real / (2 * step) / hopf_normal_form(point).c1.real


@pytest.mark.parametrize("k", [0, 1])
def test_hopf_curves_of_the_mackey_glass_equation(k):
    n, omega = hopf_curve(MackeyGlass(), k, torch.tensor(TAUS, dtype=torch.float64))
    np.testing.assert_allclose(n, [row[0] for row in CURVES[k]], rtol=0, atol=6e-10)
    np.testing.assert_allclose(omega, [row[1] for row in CURVES[k]], rtol=0, atol=6e-10)
    assert hopf_curve(MackeyGlass(), k, TAUS[2])[0].item() == n[2].item()
    assert hopf_curve(MackeyGlass(tau=TAUS[2]), k)[0].item() == n[2].item()


def test_hopf_points_in_tau():
    points = hopf_points(MackeyGlass(n=10.0), "tau", 3)
    expected = [0.47081963, 2.09313110, 3.71544257]
    np.testing.assert_allclose([point.parameters["tau"] for point in points], expected, rtol=0, atol=6e-9)
    classic = hopf_points(MackeyGlass(beta=0.2, gamma=0.1, n=10.0), "tau", 3)
    for slow, fast in zip(classic, points, strict=True):
        assert slow.parameters["tau"] == pytest.approx(10 * fast.parameters["tau"], rel=1e-13)
        assert slow.period == pytest.approx(10 * fast.period, rel=1e-13)
    (point,) = hopf_points(MackeyGlass(n=9.65), "tau")
    assert point.parameters["tau"] == pytest.approx(0.49710835, abs=6e-9)


def test_hopf_points_in_n_lie_on_the_curves():
    for k, point in enumerate(hopf_points(MackeyGlass(tau=2.0), "n", 2)):
        assert (point.parameters["n"], point.omega) == pytest.approx(CURVES[k][2], abs=6e-10)
        assert point.vector == 1


def test_n_falls_to_the_asymptote():
    n = hopf_curve(MackeyGlass(), 1, torch.tensor([1e1, 1e3, 1e5], dtype=torch.float64))[0] - 4
    # ω ≈ 3π/τ, and n − 4 ≈ ω²
    np.testing.assert_allclose(n[1:], (3 * np.pi / np.array([1e3, 1e5])) ** 2, rtol=5e-3)
    assert hopf_asymptote(MackeyGlass()) == 4
    assert unstable_roots(MackeyGlass(n=3.999, tau=300.0)) == 0 < unstable_roots(MackeyGlass(n=4.001, tau=300.0))


def test_derivatives_of_the_curve():
    tau, beta, gamma = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (1.7, 2.1, 0.8))

    def curve(tau, beta, gamma):
        return hopf_curve(MackeyGlass(beta=beta, gamma=gamma), 1, tau)

    assert torch.autograd.gradcheck(curve, (tau, beta, gamma), eps=1e-6, atol=1e-8, rtol=1e-7)
    assert torch.autograd.gradgradcheck(curve, (tau, beta, gamma), eps=1e-6, atol=1e-7, rtol=1e-6)


def test_a_parameter_on_which_no_root_depends_has_no_hopf_point():
    """Least squares comes to rest where the equations do not hold."""
    hutchinson = DDE(lambda x, y, p: p.r * x * (1 - y / p.K), [1.0], {"r": 1.3, "K": 2.0})
    without = DDE(lambda x, y, p: -p.a * y * (1 + x) + 0 * p.b * x, [1.0], {"a": 1.3, "b": 1.0})
    for system, parameter, state in ((hutchinson, "K", 2.0), (without, "b", 0.0)):
        with pytest.raises(ContinuationError, match="the equations do not hold: they may not depend on what is free"):
            locate_hopf(system, parameter, state)
    assert locate_hopf(hutchinson, "r", 2.0).parameters["r"] == pytest.approx(np.pi / 2, abs=1e-12)


@settings(max_examples=30, deadline=None)
@given(st.floats(0.05, 3), st.floats(1.1, 6), st.floats(0.1, 6), st.floats(0.3, 3), st.integers(0, 2))
def test_formula_generator_and_lambert_w_agree(gamma, ratio, gamma_tau, theta, k):
    system = MackeyGlass(beta=ratio * gamma, gamma=gamma, tau=gamma_tau / gamma, theta=theta)
    point = hopf_points(system, "n", k + 1)[k]
    scale = gamma + point.omega
    assert np.abs(lambert_roots(point.system, k=2 * k + 4) - 1j * point.omega).min() < 1e-10 * scale
    assert np.abs(characteristic_roots(point.system, k=2 * k + 4) - 1j * point.omega).min() < 1e-10 * scale
    linear = linearise_at(point.system)
    eigenvalues = linalg.eigvals(generator(linear, 40 + int(point.omega * linear.delays[1])))
    assert np.abs(eigenvalues - 1j * point.omega).min() < 1e-10 * scale
    # k pairs have crossed before, and this one crosses rightwards
    crossed = [unstable_roots(point.system.with_parameters(tau=point.parameters["tau"] * f)) for f in (0.999, 1.001)]
    assert crossed == [2 * k, 2 * k + 2]
    back = hopf_points(point.system, "tau", k + 1)[k]
    assert back.parameters["tau"] == pytest.approx(point.parameters["tau"], rel=1e-10)


def test_first_lyapunov_coefficient_of_the_mackey_glass_equation():
    (point,) = hopf_points(MackeyGlass(tau=2.0))
    form = hopf_normal_form(point)
    assert form.l1 == pytest.approx(-4.6501861, abs=6e-8)
    assert form.supercritical


@pytest.mark.parametrize(("k", "tau"), [(0, 1.3), (2, 2.7)])
def test_normal_form_is_the_scalar_formula(k, tau):
    system = MackeyGlass(beta=1.8, gamma=0.9, theta=1.4, tau=tau)
    point = hopf_points(system, "n", k + 1)[k]
    at, omega = point.system, point.omega

    def slope(u):
        return at.production_slope(u).sum()

    u = torch.tensor(point.equilibrium)
    second = torch.func.grad(slope)(u).item()
    third = torch.func.grad(lambda u: torch.func.grad(slope)(u).sum())(u).item()
    b, e = at.equilibrium_slope(), np.exp(-1j * omega * tau)

    def delta(root):
        return root + at.gamma - b * np.exp(-root * tau)

    p = 1 / (1 + b * tau * e)
    h11, h20 = second / delta(0), second * e**2 / delta(2j * omega)
    c1 = p / 2 * (third * e + 2 * second * e * h11 + second * e.conj() * e**2 * h20)
    form = hopf_normal_form(point)
    assert form.c1 == pytest.approx(c1, rel=1e-11)
    assert form.l1 == pytest.approx(c1.real / omega, rel=1e-11)


def test_delayed_logistic_equation():
    point = locate_hopf(logistic(1.4), "alpha")
    assert point.parameters["alpha"] == pytest.approx(np.pi / 2, abs=1e-13)
    assert point.omega == pytest.approx(np.pi / 2, abs=1e-13)
    assert point.period == pytest.approx(4, abs=1e-12)
    assert hopf_normal_form(point).supercritical
    # expansion of the orbits by Lindstedt's method: amplitude² = 40/(3π − 2) (α − π/2)
    assert amplitude_squared(point, "alpha") == pytest.approx(40 / (3 * np.pi - 2), rel=1e-8)
    in_tau = locate_hopf(logistic(2.0, 0.7), "tau")
    assert in_tau.parameters["tau"] * 2 == pytest.approx(np.pi / 2, abs=1e-13)
    # time runs by α: l₁ is a ratio of rates
    assert hopf_normal_form(in_tau).l1 == pytest.approx(hopf_normal_form(point).l1, rel=1e-12)


def test_tanh_equation():
    a, tau = 1.0, 1.5
    point = locate_hopf(tanh_equation(a, -1.7, tau), "b")
    assert point.parameters["b"] == pytest.approx(-np.hypot(a, point.omega), rel=1e-13)
    assert point.omega * tau + np.arctan(point.omega / a) == pytest.approx(np.pi, abs=1e-12)
    # no second derivative; the third one is −2b
    b, e = point.parameters["b"], np.exp(-1j * point.omega * tau)
    assert hopf_normal_form(point).c1 == pytest.approx(-b * e / (1 + b * tau * e), rel=1e-11)


def test_newtons_method_finds_the_points_of_the_formula():
    for parameter, value in (("n", 5.4), ("tau", 2.3), ("beta", 2.2), ("gamma", 0.9)):
        (exact,) = hopf_points(MackeyGlass(tau=2.0))
        found = locate_hopf(exact.system.with_parameters(**{parameter: value}), parameter)
        assert found.parameters[parameter] == pytest.approx(exact.parameters[parameter], rel=1e-10), parameter
        assert found.omega == pytest.approx(exact.omega, rel=1e-10)
    second = hopf_points(MackeyGlass(tau=2.0), "n", 2)[1]
    found = locate_hopf(MackeyGlass(n=10.0, tau=2.0), "n", omega=4.0)
    assert found.parameters["n"] == pytest.approx(second.parameters["n"], rel=1e-12)


@pytest.mark.parametrize("parameter", ["strength", "forward", "back"])
def test_two_components_with_two_delays(parameter):
    start = neurons()
    point = locate_hopf(start, parameter, rest(start))
    value = torch.from_numpy(point.equilibrium)
    assert point.system.field(value, [value] * 2, point.parameters).abs().max() < 1e-13
    roots = characteristic_roots(point.system, point.equilibrium, k=8)
    assert np.abs(roots - 1j * point.omega).min() < 1e-12
    # around the ring the two ways give (1 + λ)² = gain e^{−λ(τ₁ + τ₂)}
    linear = linearise_at(point.system, point.equilibrium)
    gain = linear.matrices[1, 1, 0] * linear.matrices[2, 0, 1]
    total = point.parameters["forward"] + point.parameters["back"]
    assert (1 + 1j * point.omega) ** 2 == pytest.approx(gain * np.exp(-1j * point.omega * total), abs=1e-12)
    q = point.vector
    assert np.linalg.norm(linear.characteristic_matrix(1j * point.omega) @ q) < 1e-12
    assert np.linalg.norm(q) == pytest.approx(1)


def test_from_far_away_the_real_part_is_led_to_zero_in_steps():
    near, far = (locate_hopf(s, "forward", rest(s)) for s in (neurons(), neurons(forward=1.0, back=0.6)))
    total = [point.parameters["forward"] + point.parameters["back"] for point in (near, far)]
    assert total[0] == pytest.approx(total[1], abs=1e-12)


def test_normal_form_depends_on_no_coordinates_of_the_mode():
    """A change of variables y = Sx with orthogonal S keeps |q|, a shift of time of one component all but the delays."""
    point = locate_hopf(neurons(), "strength", rest(neurons()))
    angle = 0.7
    turn = torch.tensor([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])

    def rhs(x, y, z, p):
        states = [turn.T @ state.reshape(2, -1) for state in (x, y, z)]
        return (turn @ point.system.field(states[0], states[1:], vars(p))).reshape(x.shape)

    turned = DDE(rhs, ["forward", "back"], point.parameters, dim=2)
    moved = HopfPoint(turned, turn.numpy() @ point.equilibrium, point.omega)
    assert hopf_normal_form(moved).c1 == pytest.approx(hopf_normal_form(point).c1, rel=1e-10)

    def shifted(x, y, z, p):  # x₂ looked at `lag` later: the forward way is shorter, the way back longer
        return neurons().field(x, [y, z], vars(p))

    lag = 0.25
    other = DDE(shifted, [point.parameters["forward"] - lag, point.parameters["back"] + lag], point.parameters, dim=2)
    assert hopf_normal_form(HopfPoint(other, point.equilibrium, point.omega)).l1 == pytest.approx(
        hopf_normal_form(point).l1, rel=1e-10
    )


def rest(system):
    return equilibrium(system, [0.0, 0.0])


def test_first_lyapunov_coefficient_of_an_ordinary_equation():
    """ẋ = μx − y + (ax − by)(x² + y²), ẏ = x + μy + (bx + ay)(x² + y²) has c₁ = 2a + 2ib for |q| = 1, x = 2 Re zq."""
    a, b = -0.3, 0.8

    def rhs(x, y, p):
        r = x[0] ** 2 + x[1] ** 2
        return torch.stack(
            [p.mu * x[0] - x[1] + (a * x[0] - b * x[1]) * r, x[0] + p.mu * x[1] + (b * x[0] + a * x[1]) * r]
        )

    point = locate_hopf(DDE(rhs, [1.0], {"mu": 0.1}, dim=2), "mu")
    assert point.parameters["mu"] == pytest.approx(0, abs=1e-14)
    # |x|² = 4|z|²|q|²/2: the radius r of the circle has ṙ = ar³, and |z|² = r²/2
    assert hopf_normal_form(point).c1 == pytest.approx(2 * (a + 1j * b), abs=1e-12)


def test_multilinear_forms_are_derivatives():
    point = HopfPoint(neurons(), np.array([0.2, -0.4]), 1.0)
    rng = np.random.default_rng(0)
    vectors = [rng.normal(size=(3, 2)) + 1j * rng.normal(size=(3, 2)) for _ in range(3)]
    x = torch.tensor(point.equilibrium).repeat(3, 1)

    def field(states):
        return point.system.field(states[0], [states[1], states[2]], point.parameters)

    tensor = torch.func.jacrev(torch.func.jacrev(torch.func.jacrev(field)))(x).numpy()
    expected = np.einsum("iabcdef,ab,cd,ef->i", tensor, *vectors)
    np.testing.assert_allclose(derivative(point, *vectors), expected, rtol=1e-12, atol=1e-13)


def test_curve_by_continuation_is_the_formula():
    (start,) = hopf_points(MackeyGlass(tau=2.0))
    branch = continue_hopf(start, ("n", "tau"), {"n": (4.1, 12.0), "tau": (0.2, 4.0)}, ds=0.1, direction=-1)
    assert branch.stop_reason == "n reached its bound 12"
    assert branch.points[-1].parameters["n"] == 12
    other = continue_hopf(start, ("n", "tau"), {"n": (4.1, 12.0), "tau": (0.2, 4.0)}, ds=0.1)
    assert other.stop_reason == "tau reached its bound 4"
    assert other.points[-1].parameters["tau"] == 4
    for point in [*branch.points, *other.points]:
        n, omega = hopf_curve(point.system)
        assert point.parameters["n"] == pytest.approx(float(n), rel=1e-11)
        assert point.omega == pytest.approx(float(omega), rel=1e-11)
    assert len(branch.points) == len(branch.l1)
    assert len(branch.points) > 10


def test_generalised_hopf_point():
    """x' = −ax_τ + x_τ² + cx_τ³: on the curve aτ = π/2 the coefficient c₁ is linear in c."""
    system = DDE(lambda x, y, p: -p.a * y + y**2 + p.c * y**3, [1.0], {"a": 1.5, "c": -3.0})
    start = locate_hopf(system, "a")
    # a does not change along the curve, so the second parameter is c
    branch = continue_hopf(start, ("a", "c"), {"a": (0.0, np.inf), "c": (-3.0, 3.0)})
    assert branch.stop_reason == "c reached its bound 3"
    assert repr(branch).endswith("c=-3 … 3, 1 generalised)")
    (point,) = branch.generalised
    # at a = ω = π/2: e = −i, Δ(0) = a, Δ(2iω) = a(2i − 1), B = 2, C = 6c
    a, e = np.pi / 2, -1j
    p = 1 / (1 - a * e)
    quadratic = p * (2 * 2 * e * 2 / a + 2 * np.conj(e) * 2 * e**4 / (a * (2j - 1)))
    assert point.parameters["c"] == pytest.approx(-quadratic.real / (6 * p * e).real, abs=1e-10)
    assert point.parameters["a"] == pytest.approx(np.pi / 2, abs=1e-12)
    assert abs(hopf_normal_form(point).l1) < 1e-11
    np.testing.assert_array_equal(
        np.sign(branch.l1),
        np.sign([q.parameters["c"] - point.parameters["c"] for q in branch.points]) * np.sign((p * e).real),
    )


def test_curve_of_two_neurons_keeps_the_sum_of_delays():
    start = locate_hopf(neurons(), "forward", rest(neurons()))
    total = start.parameters["forward"] + start.parameters["back"]
    branch = continue_hopf(start, ("back", "forward"), {"back": (0.05, 0.6), "forward": (0.05, 0.6)})
    assert "reached its bound" in branch.stop_reason
    for point in branch.points:
        assert point.parameters["forward"] + point.parameters["back"] == pytest.approx(total, abs=1e-11)
        assert point.omega == pytest.approx(start.omega, abs=1e-11)
    np.testing.assert_allclose(branch.l1, branch.l1[0], rtol=1e-9)


@pytest.mark.unchecked
def test_errors():
    with pytest.raises(ConfigError, match="no positive equilibrium for beta<=gamma"):
        hopf_curve(MackeyGlass(beta=1.0))
    with pytest.raises(ConfigError, match="no positive equilibrium for beta<=gamma"):
        hopf_asymptote(MackeyGlass(beta=1.0))
    with pytest.raises(ConfigError, match="no positive equilibrium for beta<=gamma"):
        hopf_points(MackeyGlass(beta=0.5))
    with pytest.raises(ConfigError, match="k must be 0, 1, …, got -1"):
        hopf_curve(MackeyGlass(), -1)
    with pytest.raises(ConfigError, match=r"k must be 0, 1, …, got 0\.5"):
        hopf_curve(MackeyGlass(), 0.5)
    with pytest.raises(ConfigError, match="tau must be a number or a tensor of numbers, got True"):
        hopf_curve(MackeyGlass(), 0, True)
    with pytest.raises(ConfigError, match="tau must be finite and greater than 0"):
        hopf_curve(MackeyGlass(), 0, torch.tensor([1.0, 0.0]))
    with pytest.raises(ConfigError, match=r"stable for every tau unless n > 4, got n=3\.5"):
        hopf_points(MackeyGlass(n=3.5), "tau")
    with pytest.raises(ConfigError, match=r"not for a DDE: take locate_hopf\(system, parameter, equilibrium\)"):
        hopf_points(tanh_equation(), "tau")
    with pytest.raises(ConfigError, match="n or tau, got 'beta'"):
        hopf_points(MackeyGlass(), "beta")
    with pytest.raises(ConfigError, match="count=0 must be"):
        hopf_points(MackeyGlass(), "n", 0)
    with pytest.raises(ConfigError, match="not a batch"):
        hopf_points(MackeyGlass(tau=torch.tensor([1.0, 2.0])))
    with pytest.raises(ConfigError, match="no parameter is called m"):
        locate_hopf(MackeyGlass(), "m")
    with pytest.raises(ConfigError, match="not an equilibrium"):
        locate_hopf(MackeyGlass(), "n", 0.4)
    with pytest.raises(ContinuationError):  # the origin has none
        locate_hopf(MackeyGlass(tau=1.0), "n", 0.0)
    with pytest.raises(ConfigError, match="a normal form belongs to a HopfPoint"):
        hopf_normal_form(MackeyGlass())
    with pytest.raises(ConfigError, match="no simple characteristic root"):
        hopf_normal_form(HopfPoint(MackeyGlass(), np.array([1.0]), 1.0))
    (start,) = hopf_points(MackeyGlass(tau=2.0))
    with pytest.raises(ConfigError, match="two different parameters"):
        continue_hopf(start, ("n", "n"), {"n": (4.0, 8.0)})
    with pytest.raises(ConfigError, match="two different parameters and bounds of both"):
        continue_hopf(start, ("n", "tau"), {"n": (4.0, 8.0)})
    with pytest.raises(ConfigError, match=r"bounds of tau must be \(lowest, highest\)"):
        continue_hopf(start, ("n", "tau"), {"n": (4.0, 8.0), "tau": (3.0, 1.0)})
    with pytest.raises(ConfigError, match="outside the bounds"):
        continue_hopf(start, ("n", "tau"), {"n": (6.0, 8.0), "tau": (1.0, 3.0)})
    bounds = {"n": (4.0, 8.0), "tau": (1.0, 3.0)}
    for options, message in (
        ({"ds": 0.0}, "0 < ds <= ds_max"),
        ({"ds_max": np.inf}, "both finite"),
        ({"direction": 0}, "direction must be 1"),
        ({"max_steps": 0}, "at least 1, got 0"),
    ):
        with pytest.raises(ConfigError, match=message):
            continue_hopf(start, ("n", "tau"), bounds, **options)

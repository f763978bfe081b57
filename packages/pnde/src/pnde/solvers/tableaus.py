"""Butcher tableaus of explicit Runge–Kutta methods, with embedded errors and dense output."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from sciml.errors import ConfigError

Row = tuple[float, ...]


@dataclass(frozen=True)
class Tableau:
    """An explicit Runge–Kutta method: U_i = u + h Σ_j a_ij k_j, k_i = f(t + c_i h, U_i), u₁ = u + h Σ_i b_i k_i.

    `a` has one row a stage, of the earlier stages' weights (the first is empty). `error` holds b - b̂, the
    difference to the embedded method; `dense[i]` the coefficients of θ, θ², … in b_i(θ), the weights of
    u(t + θh) = u + h Σ_i b_i(θ) k_i. An adaptive method's last stage is f(t + h, u₁), the first of the next step
    (first same as last). Without `error` the method takes fixed steps only.

    `order` is that of u₁ and `dense_order` that of u(t + θh), both in the sense of global errors;
    `error_order` is the power of h in the error estimate.
    """

    order: int
    c: Row
    a: tuple[Row, ...]
    b: Row
    error: Row = ()
    dense: tuple[Row, ...] = ()
    dense_order: int = 0
    error_order: int = 0

    @property
    def stages(self) -> int:
        """Number of stages, that of the next step included."""
        return len(self.c)

    @cached_property
    def columns(self) -> tuple[tuple[tuple[int, float], ...], ...]:
        """Of each row of `a`, the stages with a weight that is not zero, with it."""
        return tuple(_sparse(row) for row in self.a)

    @cached_property
    def error_columns(self) -> tuple[tuple[int, float], ...]:
        """The stages with a weight in the error that is not zero, with it."""
        return _sparse(self.error)


def _sparse(row: Row) -> tuple[tuple[int, float], ...]:
    return tuple((j, weight) for j, weight in enumerate(row) if weight)


def _hairer_dense(b: Row, d: Row) -> tuple[Row, ...]:
    """b_i(θ) of dopri5's dense output (Hairer, Nørsett & Wanner I, `contd5`) as coefficients of θ … θ⁴.

    u(θ) = u + θ(r₂ + (1-θ)(r₃ + θ(r₄ + (1-θ)r₅))) with r₂ = u₁ - u, r₃ = h k₁ - r₂, r₄ = r₂ - h k₇ - r₃ and
    r₅ = h Σ d_i k_i.
    """
    r2 = np.array(b)
    first, last = np.eye(len(b))[0], np.eye(len(b))[-1]
    r3 = first - r2
    r4 = r2 - last - r3
    r5 = np.array(d)
    coefficients = np.stack([r2 + r3, -r3 + r4 + r5, -r4 - 2 * r5, r5], axis=-1)
    return tuple(tuple(row) for row in coefficients.tolist())


_B5 = (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84, 0.0)
DOPRI5 = Tableau(
    order=5,
    dense_order=4,
    error_order=5,
    c=(0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0),
    a=(
        (),
        (1 / 5,),
        (3 / 40, 9 / 40),
        (44 / 45, -56 / 15, 32 / 9),
        (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
        (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
        _B5[:6],
    ),
    b=_B5,
    error=(71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40),
    dense=_hairer_dense(
        _B5,
        (
            -12715105075 / 11282082432,
            0.0,
            87487479700 / 32700410799,
            -10690763975 / 1880347072,
            701980252875 / 199316789632,
            -1453857185 / 822651844,
            69997945 / 29380423,
        ),
    ),
)
"""Dormand & Prince, J. Comput. Appl. Math. 6 (1980) 19, RK5(4)7M, with the dense output of Hairer, Nørsett & Wanner,
Solving Ordinary Differential Equations I, II.6."""


def _factored(scale: float, *factors: tuple[float, ...]) -> Row:
    """Coefficients of θ … θ⁴ in scale·Π(factor), each factor given from the highest power."""
    polynomial = np.array([scale])
    for factor in factors:
        polynomial = np.polymul(polynomial, factor)
    return tuple(polynomial[::-1].tolist()[1:])


_TSIT_B = (
    0.09646076681806522951816731316512876,
    0.01,
    0.4798896504144995747752495322905965,
    1.379008574103741893192274821856872,
    -3.290069515436080679901047585711363,
    2.324710524099773982415355918398765,
    0.0,
)
_SQUARE = (1.0, 0.0, 0.0)
TSIT5 = Tableau(
    order=5,
    dense_order=4,
    error_order=5,
    c=(0.0, 0.161, 0.327, 0.9, 0.9800255409045096857298102862870246, 1.0, 1.0),
    a=(
        (),
        (0.161,),
        (-0.008480655492356988544426874250230775, 0.3354806554923569885444268742502308),
        (
            2.897153057105493432130432594192939,
            -6.359448489975074843148159912383826,
            4.362295432869581411017727318190887,
        ),
        (
            5.325864828439256604428877920840511,
            -11.74888356406282787774717033978578,
            7.495539342889836208304604784564358,
            -0.09249506636175524925650207933207192,
        ),
        (
            5.861455442946420028659251486982648,
            -12.92096931784710929170611868178336,
            8.159367898576158643180400794539253,
            -0.07158497328140099722453054252582974,
            -0.02826905039406838290900305721271224,
        ),
        _TSIT_B[:6],
    ),
    b=_TSIT_B,
    error=(
        _TSIT_B[0] - 0.09468075576583945807478876255758923,
        _TSIT_B[1] - 0.009183565540343253096776363936645314,
        _TSIT_B[2] - 0.4877705284247615707855642599631228,
        _TSIT_B[3] - 1.234297566930478985655109673884238,
        _TSIT_B[4] + 2.707712349983525454881109975059322,
        _TSIT_B[5] - 1.866628418170587035753719399566211,
        -1 / 66,
    ),
    dense=(
        _factored(
            -1.0530884977290216,
            (1.0, 0.0),
            (1.0, -1.3299890189751412),
            (1.0, -1.4364028541716351, 0.7139816917074209),
        ),
        _factored(0.1017, _SQUARE, (1.0, -2.1966568338249754, 1.2949852507374631)),
        _factored(2.490627285651252793, _SQUARE, (1.0, -2.38535645472061657, 1.57803468208092486)),
        _factored(-16.54810288924490272, _SQUARE, (1.0, -1.21712927295533244), (1.0, -0.61620406037800089)),
        _factored(47.37952196281928122, _SQUARE, (1.0, -1.203071208372362603), (1.0, -0.658047292653547382)),
        _factored(-34.87065786149660974, _SQUARE, (1.0, -1.2), (1.0, -2 / 3)),
        _factored(2.5, _SQUARE, (1.0, -1.0), (1.0, -0.6)),
    ),
)
"""Tsitouras, Comput. Math. Appl. 62 (2011) 770, with its interpolant."""

_B8 = (
    14005451 / 335480064,
    0.0,
    0.0,
    0.0,
    0.0,
    -59238493 / 1068277825,
    181606767 / 758867731,
    561292985 / 797845732,
    -1041891430 / 1371343529,
    760417239 / 1151165299,
    118820643 / 751138087,
    -528747749 / 2220607170,
    1 / 4,
    0.0,
)
_B7 = (
    13451932 / 455176623,
    0.0,
    0.0,
    0.0,
    0.0,
    -808719846 / 976000145,
    1757004468 / 5645159321,
    656045339 / 265891186,
    -3867574721 / 1518517206,
    465885868 / 322736535,
    53011238 / 667516719,
    2 / 45,
    0.0,
    0.0,
)
_DENSE8 = (
    (1.0, -6.6910181737837595697, 19.9990069333683970610, -30.0610568289666450593, 22.1396504998094068976),
    (0.0, 0.0, 0.0, 0.0, 0.0),
    (0.0, 0.0, 0.0, 0.0, 0.0),
    (0.0, 0.0, 0.0, 0.0, 0.0),
    (0.0, 0.0, 0.0, 0.0, 0.0),
    (0.0, -7.6142658045872677172, 52.2273532792945524050, -121.4999627731334642623, 116.4422149550342161651),
    (0.0, 10.7281392630428866124, -46.8919164181093621583, 83.1721004639847717481, -67.1451318825957197185),
    (0.0, 0.5526637063753648783, -0.1890893225010595467, 9.5724507555993664382, -16.5672243527496524646),
    (0.0, 4.2186562625665153803, -35.7075975946222072821, 87.8406057677205645007, -89.9916014847245016028),
    (0.0, -0.6627209125361597559, 6.2736448083240352160, -17.4152107770762969005, 22.6237489648532849093),
    (0.0, -1.2636789001135462218, 10.3160881272450748458, -28.5903289514790976966, 32.2362340167355370113),
    (0.0, 5.4106037898590422230, -34.7650769866611817349, 81.6630950584341412934, -82.1020315488359848644),
    (0.0, -7.0321379067945741781, 47.7457971078225540396, -114.9375291377009418170, 116.2662185791119533462),
    (0.0, 2.3537586759714983486, -19.0082099341608028453, 50.2558364226176017553, -53.9020777466385396792),
)
DOPRI8 = Tableau(
    order=8,
    dense_order=5,
    error_order=8,
    c=(
        0.0,
        1 / 18,
        1 / 12,
        1 / 8,
        5 / 16,
        3 / 8,
        59 / 400,
        93 / 200,
        5490023248 / 9719169821,
        13 / 20,
        1201146811 / 1299019798,
        1.0,
        1.0,
        1.0,
    ),
    a=(
        (),
        (1 / 18,),
        (1 / 48, 1 / 16),
        (1 / 32, 0.0, 3 / 32),
        (5 / 16, 0.0, -75 / 64, 75 / 64),
        (3 / 80, 0.0, 0.0, 3 / 16, 3 / 20),
        (29443841 / 614563906, 0.0, 0.0, 77736538 / 692538347, -28693883 / 1125000000, 23124283 / 1800000000),
        (
            16016141 / 946692911,
            0.0,
            0.0,
            61564180 / 158732637,
            22789713 / 633445777,
            545815736 / 2771057229,
            -180193667 / 1043307555,
        ),
        (
            39632708 / 573591083,
            0.0,
            0.0,
            -433636366 / 683701615,
            -421739975 / 2616292301,
            100302831 / 723423059,
            790204164 / 839813087,
            800635310 / 3783071287,
        ),
        (
            246121993 / 1340847787,
            0.0,
            0.0,
            -37695042795 / 15268766246,
            -309121744 / 1061227803,
            -12992083 / 490766935,
            6005943493 / 2108947869,
            393006217 / 1396673457,
            123872331 / 1001029789,
        ),
        (
            -1028468189 / 846180014,
            0.0,
            0.0,
            8478235783 / 508512852,
            1311729495 / 1432422823,
            -10304129995 / 1701304382,
            -48777925059 / 3047939560,
            15336726248 / 1032824649,
            -45442868181 / 3398467696,
            3065993473 / 597172653,
        ),
        (
            185892177 / 718116043,
            0.0,
            0.0,
            -3185094517 / 667107341,
            -477755414 / 1098053517,
            -703635378 / 230739211,
            5731566787 / 1027545527,
            5232866602 / 850066563,
            -4093664535 / 808688257,
            3962137247 / 1805957418,
            65686358 / 487910083,
        ),
        (
            403863854 / 491063109,
            0.0,
            0.0,
            -5068492393 / 434740067,
            -411421997 / 543043805,
            652783627 / 914296604,
            11173962825 / 925320556,
            -13158990841 / 6184727034,
            3936647629 / 1978049680,
            -160528059 / 685178525,
            248638103 / 1413531060,
            0.0,
        ),
        _B8[:13],
    ),
    b=_B8,
    error=tuple(b - b_hat for b, b_hat in zip(_B8, _B7)),
    dense=tuple((*row, b - sum(row)) for row, b in zip(_DENSE8, _B8)),
)
"""Prince & Dormand, J. Comput. Appl. Math. 7 (1981) 67, RK8(7)13M. Its dense output, with torchdiffeq's coefficients
in all powers of θ, has order 5: the error between steps falls as tol^(3/4), that at the last time as tol.
"""

BOSH3 = Tableau(
    order=3,
    dense_order=3,
    error_order=3,
    c=(0.0, 1 / 2, 3 / 4, 1.0),
    a=((), (1 / 2,), (0.0, 3 / 4), (2 / 9, 1 / 3, 4 / 9)),
    b=(2 / 9, 1 / 3, 4 / 9, 0.0),
    error=(-5 / 72, 1 / 12, 1 / 9, -1 / 8),
    dense=((1.0, -4 / 3, 5 / 9), (0.0, 1.0, -2 / 3), (0.0, 4 / 3, -8 / 9), (0.0, -1.0, 1.0)),
)
"""Bogacki & Shampine, Appl. Math. Lett. 2 (1989) 321, with cubic Hermite interpolation."""

RK4 = Tableau(
    order=4,
    c=(0.0, 1 / 2, 1 / 2, 1.0),
    a=((), (1 / 2,), (0.0, 1 / 2), (0.0, 0.0, 1.0)),
    b=(1 / 6, 1 / 3, 1 / 3, 1 / 6),
)
"""The classical method of Kutta, with weights 1/6, 1/3, 1/3, 1/6."""

MIDPOINT = Tableau(order=2, c=(0.0, 1 / 2), a=((), (1 / 2,)), b=(0.0, 1.0))
EULER = Tableau(order=1, c=(0.0,), a=((),), b=(1.0,))

ADAPTIVE: dict[str, Tableau] = {"dopri5": DOPRI5, "tsit5": TSIT5, "dopri8": DOPRI8, "bosh3": BOSH3}
FIXED: dict[str, Tableau] = {"rk4": RK4, "midpoint": MIDPOINT, "euler": EULER}


def tableau(method: str) -> Tableau:
    """The tableau of a method.

    Raises
    ------
    ConfigError
        If there is no such method.
    """
    methods = ADAPTIVE | FIXED
    if method not in methods:
        raise ConfigError(f"method={method!r} is unknown; choose one of {', '.join(methods)}")
    return methods[method]

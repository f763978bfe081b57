"""The temperature of some time ahead, from weather measured until now."""

import csv
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import ClassVar, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float
from sciml.errors import ConfigError, DataError
from scipy.signal import lfilter
from torch import Tensor, nn

from symplectic_opt.problems._common import check_whole, ml
from symplectic_opt.problems._learning import Regression, Split

PAST, STRIDE, AHEAD = 720, 6, 72  # steps of the series
TRAINING = 0.715  # of its length
JENA = "jena_climate_2009_2016.csv"
JENA_COLUMNS = (0, 1, 5, 7, 8, 10, 11)  # pressure, temperature, vapour pressures, humidity, density, wind
JENA_TEMPERATURE = 1
Series = Literal["seattle", "synthetic", "jena"]


@dataclass(frozen=True)
class Weather(Regression):
    """Temperature 72 steps after a window of 720, of which every 6th is seen; LSTM of 32 states, then one linear layer.

    Seven features, standardised by the first 71.5 % of the series; windows with their targets lie wholly in these for
    training, wholly after them for the test. 5,281 parameters (arXiv 2207.11460). Inputs are views of the series:
    take batches, not the whole.

    Parameters
    ----------
    series
        "seattle": hourly temperatures of 2010 from the package `vega_datasets`, with sine and cosine of the year, the
        day and the half day; "synthetic": seven hourly series with yearly and daily seasons and correlated
        autoregressive noise, made of `seed`; "jena": the published one, every 10 minutes from 2009 to 2016.
    seed
        Only the synthetic series depends on it.
    data_root
        Folder of `jena_climate_2009_2016.csv`, for "jena".

    Raises
    ------
    ConfigError
        If a field is out of range.
    DataError
        When data are asked for and the file is missing or of another format.
    """

    input_dims: ClassVar[tuple[str, ...]] = ("step", "feature")
    target_dims: ClassVar[tuple[str, ...]] = ("value",)
    batch_size: ClassVar[int] = 256

    series: Series = "seattle"
    seed: int = 0
    data_root: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole(self, "seed", 0)
        if self.series not in get_args(Series):
            raise ConfigError(f"series={self.series!r} is unknown; choose one of {', '.join(get_args(Series))}")
        if (self.series == "jena") != (self.data_root is not None):
            raise ConfigError(f'series="jena" needs data_root=…, the folder of {JENA}; the others need none')

    def data(self) -> Split:
        return _windows(self)

    def layers(self) -> nn.Module:
        return Forecast()


class Forecast(nn.Module):
    """A linear function of the last state of an LSTM."""

    def __init__(self) -> None:
        super().__init__()
        self.recurrent = nn.LSTM(len(JENA_COLUMNS), 32, batch_first=True)
        self.linear = nn.Linear(32, 1)

    def forward(self, x: Float[Tensor, "n step feature"]) -> Float[Tensor, "n 1"]:
        states, _ = self.recurrent(x)
        return self.linear(states[:, -1])


@lru_cache(maxsize=2)
def _windows(problem: Weather) -> Split:
    if problem.series == "jena":
        rows, target = _jena(Path(problem.data_root or "")), JENA_TEMPERATURE
    else:
        rows, target = (_seattle() if problem.series == "seattle" else _synthetic(problem.seed)), 0
    split = int(TRAINING * len(rows))
    past = rows[:split]
    standardised = torch.from_numpy((rows - past.mean(0)) / past.std(0)).float()
    parts: list[Tensor] = []
    for part in (standardised[:split], standardised[split:]):
        targets = part[PAST + AHEAD :, target]
        seen = part.unfold(0, PAST, 1)[: len(targets), :, ::STRIDE]
        parts += [seen.transpose(1, 2), targets[:, None]]
    return Split(*parts)


def _seattle() -> np.ndarray:
    """Rows of the temperature (°F) and six clocks."""
    with open(ml("vega_datasets").local_data.seattle_temps.filepath, newline="") as file:
        table = [(datetime.strptime(row["date"], "%Y/%m/%d %H:%M"), float(row["temp"])) for row in csv.DictReader(file)]
    hours = np.array([(date - datetime(2010, 1, 1)).total_seconds() / 3600 for date, _ in table])
    return np.column_stack([[value for _, value in table], *_clocks(hours, (24 * 365, 24, 12))])


def _clocks(hours: np.ndarray, periods: tuple[int, ...]) -> list[np.ndarray]:
    angles = [2 * np.pi * hours / period for period in periods]
    return [wave for angle in angles for wave in (np.sin(angle), np.cos(angle))]


def _synthetic(seed: int) -> np.ndarray:
    """Seasons of random phases and strengths, and noise that is correlated over the features and over a day."""
    rng, n = np.random.default_rng(seed), 24 * 365
    seasons = np.column_stack(_clocks(np.arange(n), (24 * 365, 24))) @ rng.standard_normal((4, 7))
    memory = np.exp(-1 / 24)
    noise = lfilter([np.sqrt(1 - memory**2)], [1, -memory], rng.standard_normal((n, 7)), axis=0)
    return seasons + noise @ rng.standard_normal((7, 7)) / np.sqrt(7)


def _jena(folder: Path) -> np.ndarray:
    path = folder / JENA
    if not path.is_file():
        raise DataError(f"{folder} has no {JENA}: put the published file there")
    try:
        rows = np.loadtxt(path, delimiter=",", skiprows=1, usecols=[1 + column for column in JENA_COLUMNS], ndmin=2)
    except (ValueError, IndexError) as error:
        raise DataError(
            f"{path} is not a table of a date and 14 numbers in each row ({error}): get it again"
        ) from error
    if len(rows) * (1 - TRAINING) <= PAST + AHEAD + 1 or not np.isfinite(rows).all():
        raise DataError(
            f"{path} has {len(rows)} rows, too few for windows, or numbers that are not finite: get it again"
        )
    return rows

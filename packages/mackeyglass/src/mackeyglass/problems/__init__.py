"""Data sets: chaotic time series to forecast, and pairs of successive segments."""

from mackeyglass.problems.segments import Segments
from mackeyglass.problems.timeseries import TimeSeries

__all__ = ["Segments", "TimeSeries"]

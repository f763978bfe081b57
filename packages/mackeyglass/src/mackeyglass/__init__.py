"""Simulation, bifurcations and chaos of delay differential equations (arXiv 2203.00181)."""

from mackeyglass.equation import DDE
from mackeyglass.mackey_glass import MackeyGlass

__all__ = ["DDE", "MackeyGlass"]

"""Run the benchmarks: `python -m shared.bench`, or those of some plugins: `python -m shared.bench pnde`."""

import importlib
import sys
from pathlib import Path

names = sys.argv[1:] or sorted(path.stem for path in Path(__file__).parent.glob("[a-z]*.py") if path.stem != "timing")
for name in names:
    importlib.import_module(f"shared.bench.{name}").main()

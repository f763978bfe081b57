"""Our code beside its peers: times, errors and their ratios, of all plugins or of some."""

import argparse
import importlib
from pathlib import Path

ALL = sorted(path.stem for path in Path(__file__).parent.glob("[a-z]*.py") if path.stem != "timing")

parser = argparse.ArgumentParser(prog="python -m shared.bench", description=__doc__)
parser.add_argument("plugin", nargs="*", help=f"of {', '.join(ALL)}; default: all")
names = parser.parse_args().plugin
if unknown := sorted(set(names) - set(ALL)):
    parser.error(f"no benchmark of {', '.join(unknown)}: there are {', '.join(ALL)}")
for name in names or ALL:
    importlib.import_module(f"shared.bench.{name}").main()

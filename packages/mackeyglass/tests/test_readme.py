"""The code of the README runs, and gives what its comments say."""

import re
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"


@pytest.mark.slow
def test_examples_of_the_readme_run():
    names = {}
    for code in re.findall(r"^```python\n(.*?)^```", README.read_text(), re.MULTILINE | re.DOTALL):
        exec(compile(code, README.name, "exec"), names)
    assert names["doubling"].parameters["n"] == pytest.approx(7.395926925, abs=1e-9)
    assert [found.kind for found in names["attractors"]] == ["cycle", "chaos"]
    chaos = names["chaos"]
    assert chaos.converged.all()
    assert chaos.dimension.item() == pytest.approx(2.27, abs=0.01)

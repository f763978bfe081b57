"""Makes the marker that the suite uses known to pytest.

Beside `sciml_testkit`, not in it: pytest loads this before plugins that check `sciml` from its first import on.
"""

from typing import Any


def pytest_configure(config: Any) -> None:
    config.addinivalue_line("markers", "slow: takes more than a few seconds; `-m 'not slow'` leaves it out")

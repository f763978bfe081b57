"""Reports survive the round trip, put published numbers beside measured ones, and escape what they show."""

import json
import math
from types import SimpleNamespace

import pytest
from sciml import info
from sciml.cli import _fitting
from sciml.config import config, override, parse_settings
from sciml.errors import ConfigError, DataError
from sciml.report import Bar, Metric, Published, Report


@config
class Training:
    epochs: int = 3
    lr: float = 1e-3


@config
class Config:
    seed: int = 0
    training: Training = Training()


def test_published_numbers_stand_beside_measured_ones(tmp_path):
    report = Report([Metric("error", "ours", 2e-3), Metric("drift", "ours", math.nan)], notes=["<b>note</b>"])
    report = report.beside([Published("error", "ours", 1e-3, "1", "arXiv 0000.00000, table 1")])
    assert report.metric("error", "ours").ratio == pytest.approx(2.0)
    report.save(tmp_path)
    back = Report.load(tmp_path)
    assert back.metric("error", "ours") == report.metric("error", "ours")
    assert math.isnan(back.metric("drift", "ours").value)
    page = (tmp_path / "report.html").read_text()
    assert "arXiv 0000.00000, table 1" in page
    assert "&lt;b&gt;note" in page
    assert "<b>note" not in page


def test_no_report_is_a_clear_error(tmp_path):
    with pytest.raises(DataError, match="is not a report"):
        Report.load(tmp_path)


@pytest.mark.parametrize(
    "text",
    ["[" * 200_000, '{"metrics": [], "wall_time": "x"}', '{"metrics": [], "notes": [1]}', '{"metrics": 3}', "[]"],
)
def test_damaged_reports_are_refused(tmp_path, text):
    (tmp_path / "report.json").write_text(text)
    with pytest.raises(DataError, match="is not a report"):
        Report.load(tmp_path)


def test_reports_are_valid_json_whatever_was_measured(tmp_path):
    def refuse(constant):
        raise ValueError(constant)

    report = Report([Metric("a", "b", math.inf), Metric("c", "b", math.nan)], bars=[Bar("c", math.nan, 1.0)])
    back = json.loads(report.to_json(), parse_constant=refuse)
    assert [m["value"] for m in back["metrics"]] == ["inf", "nan"]


def test_bars_are_met_from_their_side_and_never_by_nan():
    assert Bar("at most", 1.0, 1.0).met
    assert not Bar("at most", 1.1, 1.0).met
    assert Bar("at least", 1.1, 1.0, at_least=True).met
    assert not Bar("at least", 0.9, 1.0, at_least=True).met
    assert not Bar("at most", math.nan, 1.0).met
    assert not Bar("at least", math.nan, 1.0, at_least=True).met
    assert str(Bar("error", 2.0, 1.0)) == "MISSED: error ≤ 1 (measured 2)"


def test_measured_numbers_have_two_digits_more_than_published_ones(tmp_path):
    """11.2148465 rounds to 11.21485, which 11.21 beside 11.21 would not show."""
    metrics = [Metric("n", "fold", 11.2148465123), Metric("n", "PD5", 8.8616401), Metric("error", "fold", 1 / 3)]
    report = Report(metrics).beside([Published("n", "fold", 11.21485, "1", "abstract")])
    assert report.comparison()[0][2:4] == ["11.2148465", "11.21485"]
    assert report.table()[1] == [["n", "11.2148465", "8.8616401"], ["error", "0.3333", ""]]
    assert "| 11.2148465 | 11.21485 |" in report.to_markdown(tmp_path)


@pytest.mark.unchecked
def test_info_shows_published_numbers_as_they_were_written():
    experiment = SimpleNamespace(
        paper="", presets={"small": Config()}, published=[Published("n", "fold", 11.21485, "1", "abstract")]
    )
    entry = SimpleNamespace(name="a/b", load=lambda: experiment)
    assert "  n of fold: 11.21485 1  (abstract)" in list(info._experiment(entry))


@pytest.mark.parametrize(
    ("published", "digits"), [(1e-3, 4), (8.02e-7, 5), (-4.6501861, 10), (10**-4.2, 4), (0.0, 4), (100.0, 4)]
)
def test_digits_are_those_of_the_published_number(published, digits):
    assert Metric("a", "b", 1.0, published=published).digits == digits


def test_a_bar_shows_what_tells_the_value_from_the_limit():
    assert str(Bar("share", 0.97004, 0.97, at_least=True)) == "met: share ≥ 0.97 (measured 0.97004)"
    assert str(Bar("n", 11.2148465, 11.21485)) == "met: n ≤ 11.21485 (measured 11.2148465)"
    assert str(Bar("distance from 7.395926925", 3.1259e-9, 1e-7)).endswith("≤ 1e-07 (measured 3.13e-09)")
    assert str(Bar("error", math.nan, 1 / 3)) == "MISSED: error ≤ 0.3333 (measured nan)"


def test_overrides_are_validated_and_typos_named():
    assert override(Config(), parse_settings(["training.epochs=5"])).training == Training(epochs=5)
    with pytest.raises(ConfigError, match="trainning is not a field: did you mean training"):
        override(Config(), parse_settings(["trainning.epochs=3"]))
    with pytest.raises(ConfigError, match=r"training\.epochs='many': .*valid integer"):
        override(Config(), parse_settings(["training.epochs=many"]))
    with pytest.raises(ConfigError, match="expected path"):
        parse_settings(["training.epochs"])


def test_many_subjects_of_many_metrics_are_columns_and_of_few_metrics_rows():
    def headings(subjects: int, metrics: int) -> list[str]:
        found = [Metric(f"m{j}", f"s{i}", 1.0) for i in range(subjects) for j in range(metrics)]
        return Report(found).table()[0]

    assert headings(9, 12)[1:] == [f"s{i}" for i in range(9)]
    assert headings(9, 3)[1:] == ["m0", "m1", "m2"]
    assert headings(6, 3)[1:] == [f"s{i}" for i in range(6)]


@pytest.mark.parametrize("width", [20, 40, 80, 1000])
def test_a_wide_table_is_shown_as_several_with_every_column_once(width):
    rows = [["metric", *(f"subject {i}" for i in range(9))], ["error", *(f"{10.0**-i:.4g}" for i in range(9))]]
    parts = list(_fitting(rows, width))
    assert all(part[0] == 0 for part in parts)
    assert [i for part in parts for i in part[1:]] == list(range(1, 10))
    needed = [9, *(max(len(cell) + 3, 9) for cell in rows[1][1:])]
    assert all(1 + sum(needed[i] for i in part) <= width or len(part) == 2 for part in parts)
    assert (len(parts) == 1) == (width == 1000)

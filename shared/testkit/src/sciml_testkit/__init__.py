"""The conformance suite that every SciML plugin passes; third parties run it on theirs."""

from sciml_testkit.errors import ConformanceError as ConformanceError
from sciml_testkit.properties import measures as measures
from sciml_testkit.suite import check as check
from sciml_testkit.suite import conformance as conformance

__all__ = ["ConformanceError", "check", "conformance", "measures"]

"""Conversion of networks into operators."""

from nn2no.conversion.entry import convert as convert
from nn2no.conversion.entry import explain as explain
from nn2no.conversion.operator import ConvertedOperator as ConvertedOperator
from nn2no.conversion.report import ConversionReport as ConversionReport

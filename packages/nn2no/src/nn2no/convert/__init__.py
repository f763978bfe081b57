"""Conversion of networks into operators."""

from nn2no.convert.conversion import convert as convert
from nn2no.convert.conversion import explain as explain
from nn2no.convert.operator import ConvertedOperator as ConvertedOperator
from nn2no.convert.report import ConversionReport as ConversionReport

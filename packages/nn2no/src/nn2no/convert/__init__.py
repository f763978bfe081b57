"""Conversion of networks into operators."""

from nn2no.convert.operator import ConversionReport as ConversionReport
from nn2no.convert.operator import ConvertedOperator as ConvertedOperator
from nn2no.convert.operator import convert as convert
from nn2no.convert.operator import explain as explain

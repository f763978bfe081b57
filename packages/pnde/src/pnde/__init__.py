"""Projected neural differential equations (arXiv 2410.23667)."""

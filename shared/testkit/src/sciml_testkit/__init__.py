"""The conformance suite that every SciML plugin passes."""

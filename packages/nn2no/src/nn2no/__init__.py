"""Neural networks into neural operators (arXiv 2506.10973)."""

"""The experiments of the paper."""

PAPER = "Practical Perspectives on Symplectic Accelerated Optimization, arXiv 2207.11460"

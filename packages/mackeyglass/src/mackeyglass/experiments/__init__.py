"""The experiments of the paper."""

PAPER = "Bistability, bifurcations and chaos in the Mackey–Glass equation, arXiv 2203.00181"

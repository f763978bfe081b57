"""Optimizers compared on problems of machine learning, each tuned with the same number of gradients."""

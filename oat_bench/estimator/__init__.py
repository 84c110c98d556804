"""The ART estimator of a tunable classifier."""

from oat_bench.estimator.classifier import OATClassifier

__all__ = ["OATClassifier"]

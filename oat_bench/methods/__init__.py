"""Methods: one file for each kind of tunable classifier."""

from oat_bench.classifier import TunableClassifier
from oat_bench.methods.oat import OAT

METHODS: dict[str, type[TunableClassifier]] = {"oat": OAT}

__all__ = ["METHODS", "OAT"]

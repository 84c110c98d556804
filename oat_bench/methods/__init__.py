"""Methods: one file for each kind of tunable classifier."""

from oat_bench.classifier import TunableClassifier
from oat_bench.methods.oat import OAT
from oat_bench.methods.oats import OATS

METHODS: dict[str, type[TunableClassifier]] = {"oat": OAT, "oats": OATS}

__all__ = ["METHODS", "OAT", "OATS"]

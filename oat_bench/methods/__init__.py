"""Methods: one file for each kind of tunable classifier."""

from oat_bench.methods.oat import OAT
from oat_bench.methods.oats import OATS

METHODS: dict[str, type[OAT]] = {"oat": OAT, "oats": OATS}

__all__ = ["METHODS", "OAT", "OATS"]

"""Conditional networks f(x, lambda) and the plain networks that they are at one lambda."""

from oat_bench.networks.backbones import build_backbone
from oat_bench.networks.conditional import ConditionalNetwork
from oat_bench.networks.norms import PlainNorm
from oat_bench.networks.specialize import specialize

__all__ = ["ConditionalNetwork", "PlainNorm", "build_backbone", "specialize"]

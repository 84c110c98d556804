"""Models by what names them: a path, a published name, or a place such as ``hf:owner/name``."""

from oat_bench.zoo.loading import load

__all__ = ["load"]

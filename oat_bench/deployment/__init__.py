"""Deployment: a trained classifier as one file that other runtimes read, and that file evaluated.

A format's module has `to_bytes`, `opened` (description and tensors of a file), `program` (the file
as its runtime computes it, None where that is the described network) and `ERRORS` of reading.
"""

from oat_bench.deployment.description import FORMATS, Format
from oat_bench.deployment.exported import Exported, is_exported, load
from oat_bench.deployment.exporting import Export, export

__all__ = ["FORMATS", "Export", "Exported", "Format", "export", "is_exported", "load"]

"""Deployment: a trained classifier as one file that other runtimes read, and that file evaluated.

A file is written by `export` in one of three formats, one module each, and read by `load`.
"""

from oat_bench.deployment.description import FORMATS, Description, Format
from oat_bench.deployment.exported import Exported, is_exported, load
from oat_bench.deployment.exporting import Export, export

__all__ = [
    "FORMATS",
    "Description",
    "Export",
    "Exported",
    "Format",
    "export",
    "is_exported",
    "load",
]

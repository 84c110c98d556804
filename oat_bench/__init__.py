"""oat-bench: train, attack and compare classifiers whose trade-off is chosen at test time."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from oat_bench import compat

__version__ = "0.1.0"

compat.install()

if TYPE_CHECKING:
    from oat_bench.checkpoint import save
    from oat_bench.classifier import OperatingPoint, TunableClassifier
    from oat_bench.deployment import export
    from oat_bench.estimator import OATClassifier
    from oat_bench.methods.parts import combine
    from oat_bench.result import Result, evaluate
    from oat_bench.training.pgd import pgd
    from oat_bench.wrapping import wrap
    from oat_bench.zoo import load

# imported on first use, so that `oat-bench --help` does not wait for torch
_PUBLIC = {
    "OATClassifier": "oat_bench.estimator",
    "OperatingPoint": "oat_bench.classifier",
    "Result": "oat_bench.result",
    "TunableClassifier": "oat_bench.classifier",
    "combine": "oat_bench.methods.parts",
    "evaluate": "oat_bench.result",
    "export": "oat_bench.deployment",
    "load": "oat_bench.zoo",
    "pgd": "oat_bench.training.pgd",
    "save": "oat_bench.checkpoint",
    "wrap": "oat_bench.wrapping",
}
__all__ = [
    "OATClassifier",
    "OperatingPoint",
    "Result",
    "TunableClassifier",
    "__version__",
    "combine",
    "evaluate",
    "export",
    "load",
    "pgd",
    "save",
    "wrap",
]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'oat_bench' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)

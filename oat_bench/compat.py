"""Import hooks that let the libraries of the field load beside each other.

Two packages fail on import through no fault of the user's:

* torchvision's Linux wheel is built against CUDA torch; beside a CPU build its extension does not
  load and ``import torchvision`` dies with ``operator torchvision::nms does not exist``. Declaring
  the schemas of the two operators that torchvision wants to decorate is enough; neither is called.
* robustbench imports ``autoattack`` but depends on ``pyautoattack``: the same code under another
  name and, since its version 0.2, another interface. `oat_bench.autoattack_interface` stands in.

The hooks act when one of these is imported, so ``import oat_bench`` stays light, and they do
nothing where the original import works.
"""

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

_OPERATORS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
_INTERFACE = "oat_bench.autoattack_interface"
_libraries: list[object] = []  # a torch.library.Library takes its operators with it when it dies


def declare_missing_operators(torchvision_folder: Path) -> list[str]:
    """Declare the operators that torchvision decorates on import, if its extension cannot load.

    Args:
        torchvision_folder: the installed package's folder.

    Returns:
        The names declared; empty beside a torch that the extension was built for.
    """
    import torch

    for extension in sorted(torchvision_folder.glob("_C*")):
        try:
            torch.ops.load_library(str(extension))  # type: ignore[no-untyped-call]
            return []
        except OSError:
            continue  # built against another torch
    missing = [name for name in _OPERATORS if not hasattr(torch.ops.torchvision, name)]
    for name in missing:
        library = torch.library.Library(  # type: ignore[no-untyped-call]
            "torchvision", "FRAGMENT"
        )
        library.define(_OPERATORS[name])  # type: ignore[no-untyped-call]
        _libraries.append(library)
    return missing


class _Alias(Loader):
    """Loads a module by importing another and standing it under this name."""

    def __init__(self, target: str) -> None:
        self.target = target

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        sys.modules[module.__name__] = importlib.import_module(self.target)


class _Finder(MetaPathFinder):
    """Prepares torchvision's import and answers for ``autoattack`` where it is not installed."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        if fullname == "torchvision":
            spec = PathFinder.find_spec(fullname)
            if spec is not None and spec.submodule_search_locations:
                declare_missing_operators(Path(next(iter(spec.submodule_search_locations))))
        elif fullname == "autoattack" or fullname.startswith("autoattack."):
            if PathFinder.find_spec("autoattack") or not PathFinder.find_spec("pyautoattack"):
                return None
            if fullname == "autoattack":
                return ModuleSpec(fullname, _Alias(_INTERFACE), is_package=True)
            return ModuleSpec(fullname, _Alias(f"py{fullname}"))
        return None


def install() -> None:
    """Put the hooks in place; calling it again changes nothing."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())

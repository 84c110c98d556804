"""Import hooks that let the libraries of the field load beside each other.

* torchvision's Linux wheel, built against CUDA torch, dies beside a CPU build with ``operator
  torchvision::nms does not exist``. Declaring two schemas is enough; neither operator is called.
* robustbench imports ``autoattack`` but depends on ``pyautoattack``, the same code under another
  name and interface; `oat_bench.autoattack_interface` stands in where that alone is installed.
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
    """Declare the operators that torchvision lacks if its extension cannot load; name them."""
    import torch

    for extension in sorted(torchvision_folder.glob("_C*")):
        try:
            torch.ops.load_library(str(extension))  # type: ignore[no-untyped-call]
            return []
        except OSError:
            continue  # built against another torch
    missing = [name for name in _OPERATORS if not hasattr(torch.ops.torchvision, name)]
    for name in missing:
        library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
        library.define(_OPERATORS[name])  # type: ignore[no-untyped-call]
        _libraries.append(library)
    return missing


class _Finder(MetaPathFinder, Loader):
    """Prepares torchvision's import and answers for ``autoattack`` where it is not installed."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        installed = PathFinder.find_spec
        spec = installed(fullname) if fullname == "torchvision" else None
        if spec is not None and spec.submodule_search_locations:
            declare_missing_operators(Path(spec.submodule_search_locations[0]))
        package = fullname.partition(".")[0]
        if package == "autoattack" and not installed(package) and installed("pyautoattack"):
            return ModuleSpec(fullname, self, is_package=fullname == package)
        return None

    def exec_module(self, module: ModuleType) -> None:
        name = module.__name__
        original = _INTERFACE if name == "autoattack" else f"py{name}"
        sys.modules[name] = importlib.import_module(original)


def install() -> None:
    """Put the hooks in place; calling it again changes nothing."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())

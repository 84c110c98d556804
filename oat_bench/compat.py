"""Import hooks that let the libraries of the field load beside each other.

* torchvision's Linux wheel, built against CUDA torch, dies beside a CPU build with ``operator
  torchvision::nms does not exist``. Declaring two schemas is enough; neither operator is called.
* robustbench imports ``autoattack`` but depends on ``pyautoattack``, the same code under another
  name and interface; `oat_bench.autoattack_interface` stands in where that alone is installed.
* robustbench imports pkg_resources, which setuptools gives up, for the path of a file beside a
  module; while ``robustbench.loaders`` is imported, a stand-in is there for it.

``docs/upstream.md`` has what of this is the libraries' to mend.
"""

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from importlib.util import spec_from_file_location
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


class _WithResources(SourceFileLoader):
    """Runs a module that takes ``resource_filename``, and nothing else, from pkg_resources."""

    def exec_module(self, module: ModuleType) -> None:
        stand_in, before = ModuleType("pkg_resources"), sys.modules.get("pkg_resources")
        vars(stand_in)["resource_filename"] = _path_beside
        sys.modules["pkg_resources"] = stand_in
        try:
            super().exec_module(module)
        finally:
            del sys.modules["pkg_resources"]
            if before is not None:
                sys.modules["pkg_resources"] = before


def _path_beside(module: str, name: str) -> str:
    return str(Path(str(sys.modules[module].__file__)).parent / name)


class _Finder(MetaPathFinder, Loader):
    """Prepares imports of torchvision and robustbench, answers for a missing ``autoattack``."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        installed = PathFinder.find_spec
        spec = installed(fullname) if fullname == "torchvision" else None
        if spec is not None and spec.submodule_search_locations:
            declare_missing_operators(Path(spec.submodule_search_locations[0]))
        if fullname == "robustbench.loaders":
            spec = installed(fullname, path)
            if spec is not None and spec.origin:
                loader = _WithResources(fullname, spec.origin)
                return spec_from_file_location(fullname, spec.origin, loader=loader)
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

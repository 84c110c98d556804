"""The import hooks, each in an interpreter of its own."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import oat_bench
from oat_bench import compat

LIBRARIES = ["torchvision", "torchattacks", "art.estimators.classification", "robustbench"]
ROOT = Path(oat_bench.__file__).parents[1]


def run(code: str, *path: Path) -> str:
    """Run code in a fresh interpreter that finds ``path`` first, then this package."""
    preamble = f"import sys; sys.path[:0] = {[str(p) for p in (*path, ROOT)]!r}\n"
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", preamble + code],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout.strip()


def test_importing_the_package_imports_no_library():
    heavy = ["torch", "torchvision", "autoattack", "robustbench", "numpy", "pydantic", "art"]
    out = run(f"import oat_bench, sys; print([m for m in {heavy} if m in sys.modules])")
    assert out == "[]"


@pytest.mark.parametrize(
    "first",
    # robustbench needs both hooks; the others are for `make test`
    [m if m == "robustbench" else pytest.param(m, marks=pytest.mark.slow) for m in LIBRARIES],
)
def test_libraries_load_beside_each_other_in_any_order(first):
    """One of them first, then all, and what each is imported for."""
    order = [first, *(module for module in LIBRARIES if module != first)]
    imports = "\n".join(f"import {module}" for module in order)
    out = run(
        f"""
import oat_bench
{imports}
from robustbench import benchmark
from torchvision.models import resnet18
from torchattacks import PGD
from art.estimators.classification import PyTorchClassifier
import torch
assert resnet18(num_classes=3).eval()(torch.rand(1, 3, 32, 32)).shape == (1, 3)
print(benchmark.__module__, PGD.__name__, PyTorchClassifier.__name__)
"""
    )
    assert out == "robustbench.eval PGD PyTorchClassifier"


@pytest.mark.parametrize("reversed_", [False, True])
def test_autoattack_is_pyautoattack_behind_its_own_interface(reversed_):
    imports = ["import autoattack, autoattack.state", "import pyautoattack, pyautoattack.state"]
    run(
        "import oat_bench\n"
        + "\n".join(imports[::-1] if reversed_ else imports)
        + """
from autoattack import AutoAttack
from autoattack.state import EvaluationState
from autoattack.autopgd_base import APGDAttack
assert autoattack.state is pyautoattack.state
assert sys.modules["autoattack.state"] is sys.modules["pyautoattack.state"]
assert issubclass(AutoAttack, pyautoattack.AutoAttack)
assert EvaluationState is pyautoattack.state.EvaluationState
assert APGDAttack is sys.modules["pyautoattack.autopgd_base"].APGDAttack
"""
    )


def test_robustbench_benchmarks_an_operating_point(monkeypatch, perturbed):
    import robustbench.eval
    import torch

    from oat_bench.networks.specialize import specialize

    model = specialize(perturbed(num_classes=10), 0.3)
    x = torch.rand(12, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    y = model(x).argmax(1)
    y[:3] = (y[:3] + 1) % 10
    monkeypatch.setattr(robustbench.eval, "load_clean_dataset", lambda *_: (x, y))
    clean, robust = robustbench.benchmark(
        model,
        n_examples=12,
        dataset="cifar10",
        threat_model="Linf",
        eps=0.9,
        device=torch.device("cpu"),
    )
    assert clean == 0.75
    assert robust == 0.0  # eps 0.9 leaves no classifier anything


def test_an_installed_autoattack_is_preferred(tmp_path):
    package = tmp_path / "autoattack"
    package.mkdir()
    (package / "__init__.py").write_text("NAME = 'the real one'\n")
    (package / "state.py").write_text("NAME = 'its state'\n")
    out = run(
        "import oat_bench, autoattack\nimport autoattack.state\n"
        "print(autoattack.NAME, autoattack.state.NAME, 'pyautoattack' in sys.modules)",
        tmp_path,
    )
    assert out == "the real one its state False"


def test_a_missing_autoattack_is_reported_as_such():
    """Neither installed: the error is Python's own."""
    out = run(
        """
import importlib.machinery
original = importlib.machinery.PathFinder.find_spec
def hidden(fullname, *args, **kwargs):
    return None if fullname == "pyautoattack" else original(fullname, *args, **kwargs)
importlib.machinery.PathFinder.find_spec = hidden
import oat_bench
try:
    import autoattack
except ModuleNotFoundError as error:
    print(error)
"""
    )
    assert out == "No module named 'autoattack'"


@pytest.mark.parametrize("before", [True, False])
def test_robustbench_is_imported_without_pkg_resources(tmp_path, before):
    """As beside a setuptools that has none; and where there is one, others keep it."""
    (tmp_path / "pkg_resources.py").write_text("" if before else "raise ImportError('gone')\n")
    out = run(
        "import warnings; warnings.simplefilter('error', UserWarning)\nimport oat_bench\n"
        + ("import pkg_resources\n" if before else "")
        + """
import robustbench, robustbench.loaders as loaders
print(sys.modules.get("pkg_resources"))
name = "helper_files/imagenet_test_image_ids.txt"
class Classes(dict):
    def __missing__(self, name):
        return 0
print(len(loaders.make_custom_dataset("folder", name, Classes())))
""",
        tmp_path,
    ).splitlines()
    kept, line = out
    assert ("pkg_resources.py" in kept) == before
    assert line == "5000"  # images of ImageNet that RobustBench attacks


def test_other_imports_are_none_of_the_hooks_business():
    finder = next(finder for finder in sys.meta_path if isinstance(finder, compat._Finder))
    for name in ("torch", "numpy", "autoattacker", "torchvisions", "torchvision.models", "art"):
        assert finder.find_spec(name) is None


def test_installing_again_changes_nothing():
    before = list(sys.meta_path)
    compat.install()
    assert sys.meta_path == before
    assert sum(isinstance(finder, compat._Finder) for finder in before) == 1


# --- torchvision's operators ---


class Spy:
    """Stands for torch.library.Library and counts what is declared."""

    declared: list[str] = []

    def __init__(self, *arguments: object) -> None:
        pass

    def define(self, schema: str) -> None:
        Spy.declared.append(schema)


@pytest.fixture
def spy(monkeypatch):
    Spy.declared = []
    monkeypatch.setattr(torch.library, "Library", Spy)
    monkeypatch.setattr(compat, "_libraries", [])
    return Spy


def test_beside_a_full_build_nothing_is_declared(tmp_path, monkeypatch, spy):
    (tmp_path / "_C.so").touch()
    loaded: list[str] = []
    monkeypatch.setattr(torch.ops, "load_library", loaded.append)
    assert compat.declare_missing_operators(tmp_path) == []
    assert loaded == [str(tmp_path / "_C.so")]
    assert spy.declared == []
    assert compat._libraries == []


def test_a_loadable_extension_is_enough(tmp_path, monkeypatch, spy):
    """One that cannot load beside one that can."""
    for name in ("_C.so", "_C_other.so"):
        (tmp_path / name).touch()

    def load(path: str) -> None:
        if path.endswith("_C.so"):
            raise OSError("built against another torch")

    monkeypatch.setattr(torch.ops, "load_library", load)
    assert compat.declare_missing_operators(tmp_path) == []
    assert spy.declared == []


def test_an_extension_that_cannot_load_has_its_operators_declared_once(tmp_path):
    (tmp_path / "_C.so").write_bytes(b"not a library")
    out = run(
        f"""
from pathlib import Path
import torch
from oat_bench.compat import declare_missing_operators
assert not hasattr(torch.ops.torchvision, "nms")
print(declare_missing_operators(Path({str(tmp_path)!r})))
print(declare_missing_operators(Path({str(tmp_path)!r})))
print(torch.ops.torchvision.nms.default._schema)
"""
    ).splitlines()
    assert out == [
        "['nms', 'qnms']",
        "[]",
        "torchvision::nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    ]


def test_only_what_is_missing_is_declared(tmp_path, monkeypatch, spy):
    (tmp_path / "_C.so").touch()

    def fail(path: str) -> None:
        raise OSError(path)

    class Operators:
        nms = object()

    monkeypatch.setattr(torch.ops, "load_library", fail)
    monkeypatch.setattr(torch.ops, "torchvision", Operators())
    assert compat.declare_missing_operators(tmp_path) == ["qnms"]
    assert [schema.split("(")[0] for schema in spy.declared] == ["qnms"]


def test_a_card_is_read_without_torch():
    out = run(
        "import sys; from oat_bench.attacks.selection import select_attacks; "
        "from oat_bench.benchmark import benchmark_card; from oat_bench.cards import names; "
        "[benchmark_card(name) for name in names('benchmarks')]; select_attacks('all'); "
        "print([m for m in ('torch', 'art', 'torchattacks', 'pandas') if m in sys.modules])"
    )
    assert out.strip() == "[]"

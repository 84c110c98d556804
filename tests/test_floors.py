"""The plan of the house holds: imports go down, nothing goes round, files stay small."""

from graphlib import TopologicalSorter
from pathlib import Path

import grimp
import pytest
from importlinter.cli import lint_imports

import oat_bench

PACKAGE = Path(oat_bench.__file__).parent
#: a newcomer reads a file at a sitting
LONGEST = 400


def test_each_floor_imports_only_from_floors_below(monkeypatch, capsys):
    """The floors are those of pyproject.toml; a new module at the top must be given one."""
    monkeypatch.chdir(PACKAGE.parent)
    assert lint_imports(no_cache=True) == 0, capsys.readouterr().out


def test_no_module_imports_itself_by_way_of_others():
    graph = grimp.build_graph("oat_bench", cache_dir=None, exclude_type_checking_imports=True)
    imports = {m: graph.find_modules_directly_imported_by(m) for m in graph.modules}
    TopologicalSorter(imports).prepare()  # raises CycleError, which names them


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_no_file_is_longer_than_a_sitting(path):
    lines = len(path.read_text().splitlines())
    assert lines <= LONGEST

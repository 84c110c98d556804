"""What tests of several commands share."""

import shutil

import pytest
from commands import run_here

from oat_bench import run
from oat_bench.evaluation import grid
from oat_bench.regression import check  # noqa: F401  # takes what is replaced here by its name


@pytest.fixture
def refused(invoke, monkeypatch):
    """Run what must fail before anything is trained or evaluated; return the one line."""

    def forbidden(*_args, **_kwargs):
        raise AssertionError("it went on")

    monkeypatch.setattr(run, "train", forbidden)
    monkeypatch.setattr(grid, "evaluate", forbidden)

    def refused(*arguments):
        code, out, err = invoke(*arguments)
        assert code == 2
        assert out == ""
        assert err.startswith("oat-bench: ")
        assert err.endswith("\n")
        assert err.count("\n") == 1, err
        assert "Traceback" not in err
        return err

    return refused


@pytest.fixture
def card(tmp_path, brief_toml):
    path = tmp_path / "brief.toml"
    path.write_text(brief_toml)
    return path


@pytest.fixture(scope="session")
def two_runs(tmp_path_factory, brief_toml, trained_folder):
    """Two evaluations of one model, the second of fewer lambda and with another seed."""
    folder = tmp_path_factory.mktemp("two")
    (folder / "brief.toml").write_text(brief_toml)
    shutil.copytree(trained_folder, folder / "one")
    common = ["--benchmark", "brief.toml", "--out"]
    run_here("run", *common, "one", cwd=folder)
    options = ["--model", "one", "--lambda", "0,1", "--seed", 3]
    run_here("evaluate", *options, *common, "two", cwd=folder)
    return folder

"""The pytest plugin as another project's tests use it."""

import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from oat_bench.pytest_plugin import RobustAccuracy

pytest_plugins = ["pytester"]

DIGITS = Path(__file__).parents[1] / "leaderboards" / "digits" / "Linf" / "oat-wrn-10-1"
MODEL, BASELINE = f"{DIGITS}.safetensors", f"{DIGITS}.json"
#: an installation of before the plugin does not announce it
INSTALLED = any(e.value == "oat_bench.pytest_plugin" for e in entry_points(group="pytest11"))
LOAD = () if INSTALLED else ("-p", "oat_bench.pytest_plugin")


@pytest.fixture
def run(pytester):
    def run(test, *arguments):
        pytester.makepyfile(test)
        # a process of its own: torch cannot be imported twice in one
        return pytester.runpytest_subprocess(*LOAD, "-p", "no:cacheprovider", *arguments)

    return run


def test_the_entry_point_is_declared():
    import tomllib

    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["pytest11"] == {"oat-bench": "oat_bench.pytest_plugin"}


def test_it_imports_nothing_heavy():
    code = "import oat_bench.pytest_plugin, sys; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    heavy = {"torch", "numpy", "pandas", "scipy", "rich", "pydantic", "art", "click"}
    assert heavy.isdisjoint(loaded.stdout.split())


def test_a_test_measures_what_the_package_measures(run):
    result = run(
        f"""
        def test_it(robust_accuracy):
            found = robust_accuracy({MODEL!r}, lam=1.0, attack="pgd-7", n_examples=100)
            assert found.n == 100
            assert found.low < found.value < found.high
            assert found.value > 40
            assert robust_accuracy({MODEL!r}, lam=0.0, attack="pgd-7", n_examples=50).value < 10
        """
    )
    result.assert_outcomes(passed=1)


def test_the_value_is_that_of_the_published_entry():
    import json

    entry = json.loads(Path(BASELINE).read_text())
    (point,) = [p for p in entry["operating_points"] if p["lam"] == 1.0]
    expected = point["robust_acc"]["fgsm"]
    found = RobustAccuracy("data")(MODEL, lam=1.0, attack="fgsm", n_examples=500)
    # rounding may turn an example or two on another processor
    assert found.value == pytest.approx(expected["value"], abs=0.41)
    assert found.low == pytest.approx(expected["low"], abs=0.5)


def test_a_check_passes_or_fails_with_the_numbers(run):
    result = run(
        f"""
        import pytest
        from oat_bench import load
        from oat_bench.methods.oat import OAT

        OPTIONS = dict(baseline={BASELINE!r}, attacks=["fgsm"], lambdas=[0.4, 1])

        def test_the_same(robust_accuracy):
            comparison = robust_accuracy.check({MODEL!r}, **OPTIONS)
            assert comparison.verdict == "ok"

        def test_damaged(robust_accuracy):
            honest = load({MODEL!r})
            state = {{k: v * 0 if v.ndim == 4 else v for k, v in honest.state_dict().items()}}
            robust_accuracy.check(OAT.from_state(honest.info, state), **OPTIONS)

        def test_other_data(robust_accuracy):
            robust_accuracy.check({MODEL!r}, dataset="/nowhere/at-all", **OPTIONS)
        """
    )
    result.assert_outcomes(passed=1, failed=2)
    result.stdout.fnmatch_lines(
        [
            "*AssertionError: digits, Linf eps 0.375: the classifier against *oat-wrn-10-1.json*",
            "*worse: 6 of 6 accuracies dropped by more than 1 point (95% confidence): lambda 0.4 *",
            "*RA fgsm at lambda 1: 70.4 before, *",
            "*UserError: *",
        ]
    )
    result.stdout.no_fnmatch_line("*raise AssertionError*")


def test_where_data_lie(run):
    result = run(
        """
        from pathlib import Path
        def test_it(robust_accuracy, pytestconfig):
            assert robust_accuracy.data_dir == Path("elsewhere")
        """,
        "--oat-data-dir=elsewhere",
    )
    result.assert_outcomes(passed=1)
    result = run("def test_it(robust_accuracy): assert str(robust_accuracy.data_dir) == 'data'")
    result.assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"lam": 1.0, "n_examples": 0}, "0 examples asked for; the test set of digits has 400"),
        ({"lam": 1.0, "attack": "pgd-21"}, "did you mean pgd-20"),
        ({"lam": 1.0, "dataset": "cifar"}, "did you mean cifar10"),
    ],
)
def test_bad_input_says_what_was_expected(options, complaint):
    with pytest.raises(ValueError, match=complaint.replace("400", r"\d+")):
        RobustAccuracy("data")(MODEL, **options)

"""The fixture that others use in their own test suites."""

import subprocess
import sys

import pytest

from oat_bench.evaluation.statistics import Accuracy

pytest_plugins = ["pytester"]

SUITE = """
def test_measured(robust_accuracy):
    accuracy = robust_accuracy({model!r}, lam=1.0, attack="pgd-7", n_examples=60)
    assert (accuracy.n, accuracy.value) == ({n}, {value})
    assert accuracy.low < accuracy.value < accuracy.high

def test_as_good(robust_accuracy):
    robust_accuracy.check({model!r}, baseline={baseline!r})

def test_damaged(robust_accuracy):
    import torch
    from oat_bench.classifier import load
    classifier = load({model!r})
    with torch.no_grad():
        for weight in classifier.network.parameters():
            weight += 0.5 * weight.std() * torch.randn_like(weight)
    robust_accuracy.check(classifier, baseline={baseline!r})
"""


@pytest.fixture(scope="module")
def expected(reported_folder) -> Accuracy:
    from oat_bench import cards, datasets
    from oat_bench.attacks import prepare
    from oat_bench.classifier import OperatingPoint, load
    from oat_bench.evaluation.grid import evaluate
    from oat_bench.evaluation.statistics import summarize

    classifier, data = load(reported_folder), datasets.load("digits")
    attack = prepare(cards.attack("pgd-7"), classifier.info.threat, n_classes=10, seed=0)
    order = datasets.nested_order(data.test.labels)[:60]
    points = [OperatingPoint(1.0)]
    frame = evaluate(
        classifier, data.test, points, [attack], data_fingerprint="", examples=order, show=False
    )
    return summarize(frame, [])[0].robust["pgd-7"]


def test_it_measures_passes_and_fails(pytester, reported_folder, expected):
    text = SUITE.format(
        model=str(reported_folder),
        baseline=str(reported_folder),
        n=expected.n,
        value=expected.value,
    )
    pytester.makepyfile(text)
    plugin = [] if installed() else ["-p", "oat_bench.pytest_plugin"]
    result = pytester.runpytest_subprocess(*plugin, "-p", "no:cacheprovider")
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(["*WORSE: * accuracies dropped by more than 1 points*"])


def installed():
    from importlib.metadata import entry_points

    return any(entry.value == "oat_bench.pytest_plugin" for entry in entry_points(group="pytest11"))


def test_it_imports_nothing_heavy():
    code = "import sys, oat_bench.pytest_plugin; print(*sys.modules)"
    modules = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert {"torch", "numpy", "pandas", "art"}.isdisjoint(modules)

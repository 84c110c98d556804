"""A dial on which a lambda is worse than another, clean and attacked alike, is found out."""

from itertools import permutations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import oat_bench
from oat_bench import datasets
from oat_bench.classifier import OperatingPoint
from oat_bench.evaluation import examination, integrity
from oat_bench.evaluation.integrity import LEVEL
from oat_bench.evaluation.subject import Subject

SHIPPED = sorted((Path(__file__).parents[2] / "leaderboards").glob("digits/*/*.safetensors"))


def right(count, n=400):
    """The first so many examples are right."""
    return pd.Series(np.arange(n) < count)


def verdict(points):
    """Of (SA, RA) as counts, by lambda."""
    return integrity.dial(
        {lam: right(sa) for lam, (sa, _) in points.items()},
        {lam: right(ra) for lam, (_, ra) in points.items()},
    )


def test_a_frontier_passes_and_a_lambda_below_it_in_both_fails():
    frontier = {0.0: (380, 10), 0.1: (340, 150), 1.0: (300, 200)}
    assert verdict(frontier).verdict == "pass"
    found = verdict(frontier | {0.05: (290, 100)})  # of 12 comparisons: 12 * 2**-50
    assert found.verdict == "fail"
    assert found.numbers["beaten"] == [0.05]
    assert "lambda 0.05 is worse than 0.1 in both (SA -12.5, RA -12.5; p 1.1e-14)" in found.evidence


@pytest.mark.parametrize("worse", [(290, 150), (340, 100), (290, 145), (290, 160)])
def test_worse_in_one_accuracy_alone_or_by_chance_passes(worse):
    """An intersection-union test: the other accuracy equal, a little lower, or higher."""
    assert verdict({0.0: (380, 10), 0.05: worse, 0.1: (340, 150)}).verdict == "pass"


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), min_size=2, max_size=5))
def test_it_is_mcnemars_tests_the_larger_p_and_holms_correction(points):
    """Of nested sets all d that differ are on one side: p is 2**-d. Holm's rule step by step."""
    lams = [place / 10 for place in range(len(points))]
    counts = dict(zip(lams, points, strict=True))
    found = verdict(counts)
    pairs = list(permutations(lams, 2))
    tests = {
        (lam, other): max(
            0.5 ** max(theirs - mine, 0)
            for mine, theirs in zip(counts[lam], counts[other], strict=True)
        )
        for lam, other in pairs
    }
    beaten = set()
    for done, pair in enumerate(sorted(tests, key=tests.__getitem__)):
        if tests[pair] > LEVEL / (len(pairs) - done):
            break
        beaten.add(pair[0])
    assert set(found.numbers["beaten"]) == beaten
    assert found.verdict == ("fail" if beaten else "pass")


def test_the_lambda_that_are_looked_at():
    trained = [0.0, 0.1, 0.2, 0.3, 0.4, 1.0]
    lams = examination.dial_lambdas(trained, continuous=True)
    assert lams == sorted({*lams, *trained})
    assert 11 <= len(lams) <= 21
    assert [lam for lam in lams if lam < 0.1] == [0.0, 0.001, 0.025, 0.05, 0.075]
    assert max(np.diff(lams)) <= 0.1 + 1e-9
    assert examination.dial_lambdas(trained, continuous=False) == trained
    assert examination.dial_lambdas([0.5], continuous=True) == [0.5]
    within = examination.dial_lambdas([0.2, 0.45], continuous=True)
    assert within == [0.2, 0.3, 0.325, 0.4, 0.45]


def examined(classifier, lams, width, n):
    data, info = datasets.load("digits"), classifier.info
    suite = examination.make_suite(
        info.threat, n_classes=info.num_classes, seed=0, ladder=("pgd-20",)
    )
    examples = datasets.nested_order(data.test.labels)[:n]
    subject = Subject(classifier, data.test, data.fingerprint(), examples)
    points = [OperatingPoint(lam, width) for lam in lams]
    return examination.examine_dial(subject, points, examples, suite)


@pytest.mark.slow
@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_the_dial_of_a_shipped_model(path):
    classifier = oat_bench.load(path)
    lams = examination.dial_lambdas(classifier.info.trained_lambdas, continuous=True)
    for width in classifier.info.widths:
        found = examined(classifier, lams, width, 200)
        assert found.verdict == "pass", found.evidence
        assert found.numbers["lambda"] == lams


def test_a_dial_without_the_bridge_is_found_out():
    """The batch norms of lambda > 0 at a code next to that of 0, which they have never met."""
    (path,) = (path for path in SHIPPED if path.stem == "oats-wrn-10-1")
    classifier = oat_bench.load(path)
    lams = [0.0, 0.001, 0.1, 0.2]
    assert examined(classifier, lams, 1.0, 300).verdict == "pass"
    classifier.network.encoding.bridge = False
    found = examined(classifier, lams, 1.0, 300)
    assert (found.verdict, found.numbers["beaten"]) == ("fail", [0.001])

"""Flags in words, a line each."""

import pytest

from oat_bench.classifier import OperatingPoint
from oat_bench.evaluation import integrity, probes
from oat_bench.evaluation.flags import Doubt
from oat_bench.reports import flags
from oat_bench.results.checks import Check


def check(name, verdict="fail", evidence="what it rests on", **numbers):
    return Check(name=name, verdict=verdict, evidence=evidence, numbers=numbers)


def doubt(check, lam=1.0, width=1.0, attack=""):
    return Doubt(OperatingPoint(lam, width), attack, check)


def test_a_flag_is_said_once_where_it_is_worst():
    found = [
        doubt(check("estimate", evidence=f"RA {d}", difference=d), lam, attack="pgd-20")
        for lam, d in ((0.0, 12.3), (0.1, 29.2), (1.0, 20.0))
    ]
    (flag,) = flags.flags(found)
    assert flag.text == (
        "pgd-20 overestimates robustness at lambda 0.1 by 29 points (RA 29.2), also at lambda 0, "
        "1: quote the stronger attack"
    )
    assert [(point.lam, point.width) for point in flag.points] == [(0, 1), (0.1, 1), (1, 1)]
    assert flags.lines([flag]) == [f"flag: {flag.text}"]


def test_each_attack_and_each_check_has_a_line():
    found = [
        doubt(check("logits", "warn"), width=0.5),
        doubt(check("estimate", difference=10.0), attack="pgd-7"),
        doubt(check("estimate", difference=6.0), attack="pgd-20"),
        doubt(check("estimate", "pass", difference=0.0), lam=0.5, attack="pgd-20"),
        doubt(check("zero gradients", "warn", n=0)),  # nothing is right: no doubt of attacks
    ]
    made = flags.flags(found)
    assert [(flag.name, flag.attack, len(flag.points)) for flag in made] == [
        ("estimate", "pgd-7", 1),
        ("estimate", "pgd-20", 1),
        ("logits", "", 1),
    ]
    assert made[2].text.startswith("outputs are not logits at lambda 1 (width 0.5) (what it")


def test_nothing_raised_is_said():
    assert flags.flags([doubt(check("logits", "pass"))]) == []
    assert flags.lines([]) == ["no flags"]


@pytest.mark.parametrize("name", flags.WORDS)
def test_every_check_has_words(name):
    """As the checks themselves name their numbers."""
    import torch

    from oat_bench.evaluation.integrity import gradient_free, retry

    rows, none = torch.rand(9, 4).softmax(1), torch.zeros(9)
    import pandas as pd

    stands, broken = pd.Series([True] * 40), pd.Series([False] * 40)
    made = {
        one.name: one
        for one in (
            integrity.estimate("pgd", stands, {"aa": broken}),
            retry("pgd with 14 steps", 9, 10),
            gradient_free("square", "", broken, stands),
            probes.zero_gradients(none, none),
            probes.repeat(rows, rows.flip(0)),
            probes.logits(rows),
        )
    }
    (flag,) = flags.flags([doubt(made[name], attack="pgd")])
    assert "at lambda 1" in flag.text
    assert made[name].evidence in flag.text
    assert "\n" not in flag.text

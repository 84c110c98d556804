"""Reports of the lambda adversary: what they say, and that threat models never share a column."""

import io
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from matplotlib.patches import Rectangle

from oat_bench import figures
from oat_bench.attacks.card import attack_card
from oat_bench.attacks.engines import prepare
from oat_bench.cards import Threat
from oat_bench.evaluation import random_lambda, transfer
from oat_bench.evaluation.random_lambda import Draw
from oat_bench.reports import transfer as reports
from oat_bench.results.transfer import Transfer

INFO = SimpleNamespace(
    dataset="dots",
    method="oat",
    architecture="line",
    threat=Threat(eps=8 / 255),
)
N = 50


def outcomes(right, keys):
    """Outcomes in which the first so many images stand, all of them right when clean."""
    return pd.DataFrame(
        [
            (*key, example, 0, 0, int(example >= n))
            for key, n in right.items()
            for example in range(N)
        ],
        columns=keys,
    )


def make_report(right, expectation=None, weights=None):
    """Build a report from how many images stand, by (crafted, lam), and by lam."""
    frame = outcomes({(*key, 1.0): n for key, n in right.items()}, transfer.KEYS)
    lams = sorted({lam for _, lam in right})
    drawn = None
    if expectation is not None:
        drawn = outcomes({(lam, 1.0): n for lam, n in expectation.items()}, random_lambda.KEYS)
    return reports.make_report(
        INFO,
        frame,
        drawn,
        Draw.of(lams, weights),
        attack=prepare(attack_card("pgd-20"), INFO.threat, n_classes=2, seed=0),
        gradients="float32",
        model_fingerprint="m",
        data_fingerprint="d",
        command="oat-bench transfer",
    )


def by_heading(report):
    return {table.heading: table.rows for table in reports.page(report).tables}


HONEST = {(0.0, 0.0): 10, (0.0, 1.0): 40, (1.0, 0.0): 25, (1.0, 1.0): 30}
MASKED = HONEST | {(0.0, 1.0): 5}


def test_threat_models_never_share_a_column():
    report = make_report(HONEST, {0.0: 12, 1.0: 28})
    tables = by_heading(report)
    assert list(tables) == [reports.KNOWN, reports.UNKNOWN, reports.ANY, reports.DRAWN]
    assert [row["RA"].value for row in tables[reports.KNOWN]] == [20.0, 60.0]
    unknown = tables[reports.UNKNOWN]
    assert (unknown[0]["RA at 0"], unknown[1]["RA at 0"].value) == (None, 50.0)
    assert (unknown[0]["RA at 1"].value, unknown[1]["RA at 1"]) == (80.0, None)
    assert [row["strongest"] for row in tables[reports.ANY]] == ["0", "1"]
    frame = pd.read_csv(io.StringIO(reports.csv(report)))
    assert frame["RA, lambda public"].to_list() == [20.0, 60.0]
    np.testing.assert_equal(frame["RA, lambda unknown, attacked at 0"].to_numpy(), [np.nan, 80.0])
    np.testing.assert_equal(frame["RA, lambda unknown, attacked at 1"].to_numpy(), [50.0, np.nan])
    assert frame["RA, any lambda"].to_list() == [20.0, 60.0]
    assert not [name for name in frame if name == "RA"]


def test_masked_gradients_are_named_in_text_table_and_figure():
    honest, found = make_report(HONEST), make_report(MASKED)
    assert "no sign of gradients masked" in reports.page(honest).markdown()
    assert "8 images to none would have been one" in reports.page(honest).markdown()
    assert (
        "Gradients are masked: at lambda 1 what was attacked at 0 breaks 25 images that its own "
        "attack does not, against 0 (p = 6e-08)"
    ) in reports.page(found).markdown()
    masked = "masked, by images attacked at"
    assert pd.read_csv(io.StringIO(reports.csv(honest)))[masked].isna().all()
    assert pd.read_csv(io.StringIO(reports.csv(found)))[masked].to_list()[1] == 0
    for report, frames in ((honest, 0), (found, 1)):
        axes = figures.transfer(report).axes[0]
        boxes = [one for one in axes.patches if isinstance(one, Rectangle)]
        assert len(boxes) == frames
        if boxes:  # attacked at the first, classified at the second
            (x, y), width, height = boxes[0].get_xy(), boxes[0].get_width(), boxes[0].get_height()
            assert (x + width / 2, y + height / 2) == pytest.approx((1, 0))


def test_the_figure_has_every_accuracy_and_the_worst_in_bold():
    axes = figures.transfer(make_report(MASKED)).axes[0]
    shown = {one.get_position(): (one.get_text(), one.get_fontweight()) for one in axes.texts}
    assert shown == {  # (classified at, attacked at)
        (0, 0): ("20.0", "bold"),
        (1, 0): ("10.0", "bold"),
        (0, 1): ("50.0", "normal"),
        (1, 1): ("60.0", "normal"),
    }


def test_nothing_is_said_of_masking_where_nothing_could_show_it():
    report = make_report({(0.0, 1.0): 3})
    assert "Masked gradients were not looked for" in reports.page(report).markdown()
    assert list(by_heading(report)) == [reports.UNKNOWN, reports.ANY]
    alone = make_report({(1.0, 1.0): 3})
    assert list(by_heading(alone)) == [reports.KNOWN]
    assert "Masked gradients were not looked for" in reports.page(alone).markdown()


@pytest.mark.parametrize(
    ("single", "expectation", "words"),
    [
        (20, 5, "breaks more than that of the best one lambda: its expected RA is -30.0"),
        (20, 20, "cannot be told from that of the best one lambda: its expected RA is +0.0"),
        (20, 40, "breaks less than that of the best one lambda, and is too weak: its expected RA"),
    ],
)
def test_the_expectation_is_compared_with_the_best_one_lambda(single, expectation, words):
    text = reports.page(
        make_report(dict.fromkeys(HONEST, single), {0.0: expectation, 1.0: expectation})
    ).markdown()
    assert words in text


def test_a_random_lambda_counts_by_its_chances():
    report = make_report(HONEST, {0.0: 12, 1.0: 28}, weights=[3, 1])
    drawn = report.drawn
    assert (drawn.lams, drawn.chances) == ([0.0, 1.0], [0.75, 0.25])
    found = {one.attacked: (one.expected.value, one.worst.value) for one in drawn.attacks}
    assert (
        found
        == {
            "expectation": (100 * (0.75 * 12 + 0.25 * 28) / N, 24.0),
            0.0: (100 * (0.75 * 10 + 0.25 * 40) / N, 20.0),
            1.0: (100 * (0.75 * 25 + 0.25 * 30) / N, 50.0),
            "worst": (100 * (0.75 * 10 + 0.25 * 18) / N, 20.0),
        }
        or found["worst"][0] < 32.0
    )
    assert drawn.best_single == 0.0
    text = reports.page(report).markdown()
    assert "Lambda is drawn from 0, 1, with chances 0.75, 0.25." in text
    rows = pd.read_csv(io.StringIO(reports.random_csv(drawn)))
    assert rows["attacked"].to_list() == ["expectation", "0.0", "1.0", "worst"]
    assert rows["expected RA"].to_list() == [
        found[k][0] for k in ("expectation", 0.0, 1.0, "worst")
    ]


def test_a_report_is_read_back():
    report = make_report(MASKED, {0.0: 12, 1.0: 28})
    assert Transfer.model_validate_json(report.model_dump_json()) == report

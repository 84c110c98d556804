"""Published accuracies: what ships is what the sources say, and nothing else is read."""

import csv

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oat_bench import cards
from oat_bench.attacks.card import AttackCard, attack_card
from oat_bench.attacks.engines import prepare
from oat_bench.cards import Threat
from oat_bench.errors import UserError
from oat_bench.results import published
from oat_bench.results.entries import make_entry
from oat_bench.results.points import PointResult
from oat_bench.statistics.accuracy import Accuracy

HEADER = (
    "dataset,network,method,lambda,width,attack,norm,eps,step_size,SA,RA,uncertainty,source,note"
)
ROW = "svhn,wrn-16-8,oat,1,1,pgd-7,Linf,8/255,2/255,94.43,62.16,0.005,arXiv:2010.11828,"


@pytest.fixture(scope="module")
def rows():
    return published.load()


@pytest.fixture
def write(tmp_path):
    def write(text):
        path = tmp_path / "numbers.csv"
        path.write_text(text)
        return path

    return write


def find(rows, **wanted):
    (row,) = [r for r in rows if all(getattr(r, k) == v for k, v in wanted.items())]
    return row


def test_the_paper_is_quoted_right(rows):
    """Section 4.2: 94.43% SA and 62.16% RA, to 97.07% SA and 37.32% RA; 61.81% to 62.62%."""
    robust = find(rows, dataset="svhn", method="oat", lam=1.0)
    assert (robust.sa, robust.ra) == (94.43, 62.16)
    accurate = find(rows, dataset="svhn", method="oat", lam=0.0)
    assert (accurate.sa, accurate.ra) == (97.07, 37.32)
    single = [row for row in rows if row.method == "oat-single-bn"]
    assert [row.lam for row in single] == [0.1, 0.2, 0.3, 0.4, 1.0]
    for row in single:
        assert row.sa is None
        assert row.ra - row.uncertainty == pytest.approx(61.81)
        assert row.ra + row.uncertainty == pytest.approx(62.62)


def test_every_row_is_of_the_papers_experiment_and_can_be_looked_up(rows):
    networks = {"svhn": "wrn-16-8", "cifar10": "resnet-34", "stl10": "wrn-40-2"}
    for row in rows:
        assert row.network == networks[row.dataset]
        assert row.lam in (0, 0.1, 0.2, 0.3, 0.4, 1)
        assert row.width in (1, 0.75, 0.5)
        assert (row.norm, row.attack) == ("Linf", "pgd-7")
        assert row.eps == 8 / 255
        assert "arXiv:" in row.source
        assert row.attack in cards.names("attacks")


def test_the_digitised_curves_fall_as_curves_do(rows):
    """A slip of a digit would break the order: more lambda, less SA and more RA."""
    curves = {}
    for row in rows:
        if row.sa is not None:
            curve = curves.setdefault((row.dataset, row.method, row.width), [])
            curve.append((row.lam, row.sa, row.ra))
    assert len(curves) == 11  # OAT; OATS at 3, 3 and 1 widths; SOLAR at one on each data set
    for curve in curves.values():
        curve.sort()
        sa, ra = [point[1] for point in curve], [point[2] for point in curve]
        assert sa == sorted(sa, reverse=True)
        assert ra == sorted(ra)


@pytest.fixture
def entry(build_classifier):
    def entry(card, threat, *, method="oat", dataset="svhn", architecture="wrn-16-8"):
        attack = prepare(card, threat, n_classes=10, seed=0)
        info = build_classifier().info
        found = Accuracy(value=90, low=89, high=91)
        results = [
            PointResult(
                lam=lam,
                width=1,
                trained=True,
                n=100,
                clean_acc=90,
                clean_acc_interval=found,
                autoattack_acc=None,
                robust_acc={card.name: found},
                worst_case_acc=None,
            )
            for lam in (0.0, 0.15)
        ]
        made = make_entry(
            info,
            results,
            [attack],
            model_fingerprint="",
            command="",
            eps=8 / 255,
            norm=threat.norm,
        )
        changes = {"method": method, "dataset": dataset, "architecture": architecture}
        return made.model_copy(update=changes)

    return entry


def test_an_entry_finds_its_experiment(rows, entry):
    card, threat = attack_card("pgd-7"), Threat()
    found = published.of_entry(rows, entry(card, threat), same_method=True)
    assert [(row.method, row.lam) for row in found] == [("oat", 0.0)]
    every = published.of_entry(rows, entry(card, threat), same_method=False)
    assert {row.method for row in every} == {"oat", "oat-single-bn", "oats", "solar"}
    for key, other in {"dataset": "digits", "architecture": "wrn-16-2"}.items():
        found = published.of_entry(rows, entry(card, threat, **{key: other}), same_method=False)
        assert found == []
    other = entry(card, threat, method="pgd-at")
    assert published.of_entry(rows, other, same_method=True) == []
    narrow = [row.model_copy(update={"width": 0.5}) for row in rows]
    assert published.of_entry(narrow, entry(card, threat), same_method=True) == []


def test_an_attack_that_only_shares_name_or_method_is_not_the_published_one(rows, entry):
    card, threat = attack_card("pgd-7"), Threat()
    weaker = card.model_dump(by_alias=True) | {"parameters": {**card.parameters, "steps": 1}}
    smaller = card.model_dump(by_alias=True) | {"eps": 4 / 255}
    for other in (AttackCard.model_validate(weaker), AttackCard.model_validate(smaller)):
        assert other.name == "pgd-7"
        assert published.of_entry(rows, entry(other, threat), same_method=False) == []
    shorter = Threat(step_size=1.43 / 255)
    assert published.of_entry(rows, entry(card, shorter), same_method=False) == []
    unknown = [row.model_copy(update={"step_size": None}) for row in rows]
    assert published.of_entry(unknown, entry(card, shorter), same_method=False)
    closer = [row.model_copy(update={"eps": 4 / 255}) for row in rows]
    assert published.of_entry(closer, entry(card, threat), same_method=False) == []
    described = card.model_copy(update={"description": "other words"})
    assert published.of_entry(rows, entry(described, threat), same_method=True)
    l2 = Threat(norm="L2")
    assert published.of_entry(rows, entry(card, l2), same_method=False) == []


def test_comments_come_first_and_quotes_may_hold_commas(write):
    row = ROW.replace("arXiv:2010.11828", '"Wang, et al. # 1"')
    (read,) = published.read(write(f"# a comment, with commas\n#another\n{HEADER}\n{row}\n"))
    assert read.source == "Wang, et al. # 1"
    assert read.eps == pytest.approx(8 / 255)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "columns are ; expected dataset,"),
        (HEADER.replace(",note", ""), "expected dataset,network"),
        (HEADER.replace("SA,RA", "RA,SA") + "\n", "columns are"),
        (f"{HEADER}\n{ROW},extra\n", "line 2: 15 cells; expected 14"),
        (f"# c\n{HEADER}\n{ROW}\n{ROW}\n", "line 4: the same point of the same source"),
        (f"{HEADER}\n{ROW.replace('8/255,2', 'eight,2')}\n", "line 2: eps: expected a number"),
        (f"{HEADER}\n{ROW.replace('94.43', '194.43')}\n", "SA: input should be less than"),
        (f"{HEADER}\n{ROW.replace('94.43', '54.43')}\n", "the RA, 62.16, is above the SA, 54.43"),
        (f"{HEADER}\n{ROW.replace('94.43,62.16', ',')}\n", "neither SA nor RA"),
        (f"{HEADER}\n{ROW.replace(',1,1,', ',1.5,1,')}\n", "lambda: input should be less"),
        (f"{HEADER}\n{ROW.replace('Linf', 'L3')}\n", "norm: input should be 'Linf'"),
        (f"{HEADER}\n{ROW.replace('arXiv:2010.11828', '')}\n", "source"),
        (f'{HEADER}\n{ROW}"open\n', "not valid CSV"),
    ],
)
def test_anything_else_is_refused_in_one_line(write, text, words):
    path = write(text)
    with pytest.raises(UserError) as refusal:
        published.read(path)
    message = str(refusal.value)
    assert message.startswith(f"{path}: ")
    assert words in message
    assert "\n" not in message


def test_files_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        published.read(tmp_path / "none.csv")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="cannot be read"):
        published.read(tmp_path / "binary.csv")


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("any") / "any.csv"
    path.write_text(f"{HEADER}\n{text}", encoding="utf-8", errors="replace")
    refusal = ""
    try:
        published.read(path)
    except UserError as error:
        refusal = str(error)
    assert "\n" not in refusal


def test_the_files_that_ship_are_plain_csv():
    for path in (cards.folder("benchmarks") / "published").glob("*.csv"):
        lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
        assert all(len(cells) == len(published.COLUMNS) for cells in csv.reader(lines))

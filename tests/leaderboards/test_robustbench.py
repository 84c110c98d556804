"""RobustBench's files: read with all their faults, written so that its own code renders them."""

import contextlib
import io
import json

import jinja2
import pytest

import oat_bench
from oat_bench.errors import UserError
from oat_bench.results import robustbench
from oat_bench.results.robustbench import model_info, robustbench_points
from oat_bench.statistics.accuracy import WORST

#: as model_info/cifar10/Linf/Rice2020Overfitting.json and its neighbours are written
THEIRS = {
    "link": "https://arxiv.org/abs/2002.11569",
    "name": "Overfitting in adversarially robust deep learning",
    "authors": "Leslie Rice, Eric Wong, J. Zico Kolter",
    "additional_data": False,
    "number_forward_passes": 1,
    "dataset": "cifar10",
    "venue": "ICML 2020",
    "architecture": "WideResNet-34-20",
    "eps": "8/255",
    "clean_acc": "85.34",
    "reported": "58",
    "autoattack_acc": "53.42",
    "unreliable": False,
}
KEYS = {*THEIRS, "external", "footnote"}
#: reads what RobustBench's leaderboard.html.j2 reads, in its words
TEMPLATE = """{% for model in models %}{{ loop.index }};{{ model.link }};{{ model.name }};\
{% if model.footnote is defined and model.footnote != None %}{{ model.footnote }}{% endif %};\
{{ model.clean_acc }}%;{{ model[acc_field] }}%;\
{{ model.external if model.external is defined and model.external else model[acc_field] }}%;\
{{ "Unknown" if model.unreliable is not defined else model.unreliable }};\
{{ "yes" if model.additional_data else "no" }};{{ model.architecture }};{{ model.venue }}
{% endfor %}"""


@pytest.fixture
def clone(tmp_path):
    folder = tmp_path / "clone" / "model_info" / "cifar10" / "Linf"
    folder.mkdir(parents=True)
    (folder / "Rice2020Overfitting.json").write_text(json.dumps(THEIRS))
    return tmp_path / "clone"


def put(clone, name, content):
    path = clone / "model_info" / "cifar10" / "Linf" / f"{name}.json"
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return path


# --- read


def test_a_model_is_read(clone):
    (point,) = robustbench_points(clone, "cifar10", "Linf")
    assert (point.id, point.clean_acc, point.autoattack_acc) == (
        "Rice2020Overfitting",
        85.34,
        53.42,
    )
    assert (point.name, point.venue, point.eps) == (THEIRS["name"], "ICML 2020", "8/255")
    assert (point.additional_data, point.unreliable, point.external) == (False, False, None)
    # the folder itself does too
    assert robustbench_points(clone / "model_info", "cifar10", "Linf") == [point]


def test_the_most_robust_is_first_and_the_best_known_ra_is_the_lower(clone):
    put(clone, "Strong", THEIRS | {"autoattack_acc": "70.1", "external": "69.71"})
    strong, rice = robustbench_points(clone, "cifar10", "Linf")
    assert (strong.id, rice.id) == ("Strong", "Rice2020Overfitting")
    assert [strong.robust(a) for a in ("autoattack", WORST, "pgd-20")] == [70.1, 69.71, None]
    assert rice.robust(WORST) == 53.42
    # the order is that of the best known, and nothing survived some attack
    put(clone, "Broken", THEIRS | {"autoattack_acc": "80", "external": "0.00"})
    points = robustbench_points(clone, "cifar10", "Linf")
    assert [(point.id, point.robust(WORST)) for point in points] == [
        ("Strong", 69.71),
        ("Rice2020Overfitting", 53.42),
        ("Broken", 0.0),
    ]


def test_our_copy_is_read_like_the_clone_that_it_is_of(clone, monkeypatch, tmp_path):
    put(clone, "Strong", THEIRS | {"autoattack_acc": "70.1", "external": 69.71, "reported": 71})
    (tmp_path / "copy.json").write_text(robustbench.copied(clone, "0123abc"))
    monkeypatch.setattr(robustbench, "_COPY", tmp_path / "copy.json")
    robustbench._shipped.cache_clear()
    try:
        ours = robustbench_points("package", "cifar10", "Linf")
    finally:
        robustbench._shipped.cache_clear()
    assert ours == robustbench_points(clone, "cifar10", "Linf")
    assert "0123abc" in json.loads((tmp_path / "copy.json").read_text())["source"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[" * 100_000,
        b"[]",
        b"3",
        {},
        {k: v for k, v in THEIRS.items() if k != "autoattack_acc"},
        THEIRS | {"clean_acc": "high"},
        THEIRS | {"clean_acc": "NaN"},
        THEIRS | {"autoattack_acc": "153.4"},
        THEIRS | {"name": ["a"]},
        b" " * ((1 << 20) + 1),
    ],
)
def test_a_broken_file_is_left_out_in_one_line(clone, content, capsys):
    path = put(clone, "Broken", content)
    found = robustbench_points(clone, "cifar10", "Linf")
    assert [point.id for point in found] == ["Rice2020Overfitting"]
    said = capsys.readouterr().err
    assert said.startswith(f"left out: {path}: ")
    assert said.count("\n") == 1


def test_a_folder_in_the_place_of_a_file_is_left_out(clone):
    (clone / "model_info" / "cifar10" / "Linf" / "Folder.json").mkdir()
    assert len(robustbench_points(clone, "cifar10", "Linf")) == 1


@pytest.mark.parametrize(
    ("dataset", "threat"),
    [("digits", "Linf"), ("cifar10", "L2"), ("../cifar10", "Linf"), ("cifar10", "../Linf")],
)
def test_what_robustbench_does_not_have_is_empty(clone, dataset, threat):
    assert robustbench_points(clone, dataset, threat) == []


def test_another_folder_is_no_clone(tmp_path):
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(UserError, match="expected a clone of"):
            robustbench_points(folder, "cifar10", "Linf")


# --- written


@pytest.fixture
def record(publish):
    return publish(
        "OAT wrn-16-2",
        {0.0: (97, {"pgd-20": 5, "autoattack": 3}), 0.4: (90, {"pgd-20": 48, "autoattack": 50})},
        dataset="cifar10",
        eps="8/255",
        architecture="wrn-16-2",
        venue="NeurIPS 2020",
        link="https://arxiv.org/abs/2010.11828",
        authors="A. Author",
        footnote="A note.",
    )


def test_an_operating_point_has_the_keys_and_forms_of_robustbench(record):
    info = model_info(record.entry, 0.4)
    assert info == {
        "link": "https://arxiv.org/abs/2010.11828",
        "name": "OAT wrn-16-2",
        "authors": "A. Author",
        "additional_data": False,
        "number_forward_passes": 1,
        "dataset": "cifar10",
        "venue": "NeurIPS 2020",
        "architecture": "WideResNet-16-2",
        "eps": "8/255",
        "clean_acc": "90.00",
        "reported": None,
        "autoattack_acc": "50.00",
        "footnote": "OAT at lambda 0.4, n 100. A note.",
        # PGD broke two that AutoAttack did not
        "external": "48.00",
    }
    assert set(info) <= KEYS
    assert "external" not in model_info(record.entry, 0.0)


def test_reliability_is_said_where_it_is_known(record):
    assert "unreliable" not in model_info(record.entry, 0.4)
    assert model_info(record.entry, 0.4, doubts=[])["unreliable"] is False
    doubted = model_info(record.entry, 0.4, doubts=["attack integrity failed"])
    assert doubted["unreliable"] is True
    assert doubted["footnote"].endswith("Unreliable: attack integrity failed.")
    stated = record.entry.model_copy(update={"unreliable": True})
    assert model_info(stated, 0.4)["unreliable"] is True


@pytest.mark.parametrize(
    ("lam", "width", "message"),
    [
        (0.3, 1.0, "no lambda 0.3; it has 0, 0.4"),
        (0.4, 0.5, "no width 0.5; it has 1"),
    ],
)
def test_a_point_that_was_not_measured_is_refused(record, lam, width, message):
    with pytest.raises(UserError, match=message):
        model_info(record.entry, lam, width)


def test_without_autoattack_there_is_no_model_info(publish):
    with pytest.raises(UserError, match=r"AutoAttack was not run at lambda 0\.4"):
        model_info(publish("a", {0.4: (90, 50)}).entry, 0.4)


@pytest.fixture
def render(monkeypatch, tmp_path):
    """Render model_info files by RobustBench's code, which installs without its template."""
    oat_bench.compat.install()
    from robustbench.leaderboard import template

    loader = jinja2.DictLoader({"leaderboard.html.j2": TEMPLATE})
    monkeypatch.setattr(template, "PackageLoader", lambda *_: loader)

    def strict(**options):
        return jinja2.Environment(**options, undefined=jinja2.StrictUndefined)

    monkeypatch.setattr(template, "Environment", strict)

    def render(infos):
        folder = tmp_path / "rendered" / "cifar10" / "Linf"
        folder.mkdir(parents=True)
        for number, info in enumerate(infos):
            (folder / f"{number}.json").write_text(json.dumps(info))
        with contextlib.redirect_stdout(io.StringIO()):
            return template.generate_leaderboard("cifar10", "Linf", str(tmp_path / "rendered"))

    return render


def test_robustbenchs_own_code_renders_operating_points_among_its_models(render, record):
    points = [
        model_info(record.entry, lam, doubts=doubts) for lam, doubts in ((0.0, []), (0.4, None))
    ]
    lines = render([*points, THEIRS]).splitlines()
    assert lines == [
        "1;https://arxiv.org/abs/2002.11569;Overfitting in adversarially robust deep learning;;"
        "85.34%;53.42%;53.42%;False;no;WideResNet-34-20;ICML 2020",
        "2;https://arxiv.org/abs/2010.11828;OAT wrn-16-2;OAT at lambda 0.4, n 100. A note.;"
        "90.00%;50.00%;48.00%;Unknown;no;WideResNet-16-2;NeurIPS 2020",
        "3;https://arxiv.org/abs/2010.11828;OAT wrn-16-2;OAT at lambda 0, n 100. A note.;"
        "97.00%;3.00%;3.00%;False;no;WideResNet-16-2;NeurIPS 2020",
    ]


def test_hostile_text_is_text_in_its_page(render, record):
    """RobustBench's environment escapes nothing in a .j2 file."""
    evil = dict.fromkeys(["name", "venue", "authors", "architecture"], '<script>"x"</script>')
    entry = record.entry.model_copy(
        update=evil | {"footnote": "<img src=x>", "link": "javascript:alert(1)"}
    )
    page = render([model_info(entry, 0.4)])
    assert "<" not in page
    assert '"' not in page
    assert "javascript" not in page
    assert page.count("&lt;script&gt;") == 3


def test_backbones_have_their_names_there():
    names = {name: robustbench._architecture(name) for name in ("wrn-28-10", "resnet-18", "odd")}
    assert names == {"wrn-28-10": "WideResNet-28-10", "resnet-18": "ResNet-18", "odd": "odd"}

"""A run's entry comes to its place whole, or not at all."""

import json
import shutil

import pytest

from oat_bench.checkpoint import save
from oat_bench.errors import UserError
from oat_bench.leaderboards import publishing
from oat_bench.results import ranking, records, reliability, validation


@pytest.fixture
def run(publish, build_classifier, tmp_path):
    """A run's folder, with all that a run writes."""
    classifier = build_classifier()
    classifier.info = classifier.info.model_copy(update={"benchmark_card": "b" * 64})
    made = publish(
        "OAT wrn-10-1",
        {0.0: (98, 5), 1.0: (90, 50)},
        with_outcomes=True,
        folder="made",
        model_fingerprint=classifier.fingerprint(),
    )
    folder = tmp_path / "run"
    folder.mkdir()
    shutil.copy(made.path, folder / "entry.json")
    shutil.copy(made.outcomes_path, folder / "outcomes.parquet")
    save(classifier, folder / "checkpoint.safetensors")
    for name in ("table.md", "table.csv", "table.tex", "log.csv"):
        (folder / name).write_text(name)
    examine(folder)
    return folder


def examine(run, verdict="pass", **changes):
    """Write what `oat-bench integrity` finds; change the entry."""
    path = run / "entry.json"
    entry = records.read(run).entry
    path.write_text(entry.model_copy(update=changes).model_dump_json(by_alias=True))
    report = {"verdict": verdict, "model_fingerprint": entry.model_fingerprint}
    (run / "integrity.json").write_text(json.dumps(report))


@pytest.fixture
def add(run, tmp_path):
    def add(*, changes=None, to=tmp_path / "lb", **options):
        return publishing.add(records.read(run), to, changes=changes or {}, **options)

    return add


def names(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_an_entry_goes_to_its_place_with_its_outcomes(add, run, tmp_path):
    written, warnings = add(changes={"authors": "A. Author", "link": "https://a.b"})
    place = tmp_path / "lb" / "digits" / "Linf" / "oat-wrn-10-1.json"
    beside = [place.with_suffix(end) for end in (".parquet", ".integrity.json")]
    assert written == [place, *beside]
    assert warnings == []
    assert names(tmp_path / "lb") == sorted(path.name for path in written)
    entry = records.read(place).entry
    assert (entry.authors, entry.link) == ("A. Author", "https://a.b")
    assert entry.operating_points == records.read(run).entry.operating_points
    assert validation.validate(tmp_path / "lb") == ([place], [])


def test_an_entry_in_l2_has_its_own_board(add, run, tmp_path):
    """Also where radius and name are those of one in Linf."""
    (linf, *_), _ = add()
    examine(run, threat_model="L2")
    (l2, *_), warnings = add(with_checkpoint=True)
    assert l2 == tmp_path / "lb" / "digits" / "L2" / linf.name
    assert warnings == []
    assert validation.validate(tmp_path / "lb") == ([l2, linf], [])
    boards = [ranking.rank(g) for g in ranking.groups([records.read(path) for path in (linf, l2)])]
    assert [(board.threat_model, len(board.rows)) for board in boards] == [("L2", 1), ("Linf", 1)]
    assert {board.rows[0].rank for board in boards} == {1}


def test_more_is_copied_where_it_is_asked_for(add, tmp_path):
    written, _ = add(with_checkpoint=True, with_tables=True, changes={"name": "My Model, no. 1!"})
    assert {path.name for path in written} == {
        "my-model-no.-1.json",
        *(f"my-model-no.-1.{end}" for end in ("parquet", "safetensors", "integrity.json")),
        *(f"my-model-no.-1.{end}" for end in ("md", "csv", "tex")),
    }
    assert validation.validate(tmp_path / "lb")[1] == []


def test_the_verdict_goes_into_the_entry(add, run):
    for verdict in ("warn", "fail"):
        examine(run, verdict, flags=[])
        (place, *_), _ = add(replace=True)
        record = records.read(place)
        assert record.entry.integrity == verdict
        assert validation.problems(record) == []
        # the report is what counts, and where the entry came alone what it says
        assert reliability.verdict_of(record) == verdict
        record.beside("integrity.json").unlink()
        assert reliability.verdict_of(record) == verdict


def test_an_entry_that_was_not_examined_is_refused(add, run, tmp_path):
    examine(run, flags=[])
    (run / "integrity.json").unlink()
    with pytest.raises(UserError, match=f"make it by: oat-bench integrity {run}$"):
        add()
    assert not (tmp_path / "lb").exists()
    # one that was made before that was asked for is not
    path = run / "entry.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"flags": None}))
    assert add()[0]


def test_nothing_is_overwritten_but_by_replace(add, tmp_path):
    add(changes={"venue": "first"})
    with pytest.raises(UserError, match=r"is there already; choose another --name, or --replace"):
        add(changes={"venue": "second"})
    place = tmp_path / "lb" / "digits" / "Linf" / "oat-wrn-10-1.json"
    assert records.read(place).entry.venue == "first"
    add(changes={"venue": "second"}, replace=True)
    assert records.read(place).entry.venue == "second"


def test_files_of_another_model_do_not_stay(add, run, tmp_path):
    add(with_checkpoint=True, with_tables=True)
    place = tmp_path / "lb" / "digits" / "Linf" / "oat-wrn-10-1.json"
    # of the same model only the tables are of another evaluation
    add(replace=True)
    assert names(tmp_path / "lb") == [
        f"oat-wrn-10-1.{end}" for end in ("integrity.json", "json", "parquet", "safetensors")
    ]
    values = json.loads(place.read_text()) | {"model_fingerprint": "a" * 64}
    place.write_text(json.dumps(values))
    add(replace=True)
    assert names(tmp_path / "lb") == [
        f"oat-wrn-10-1.{end}" for end in ("integrity.json", "json", "parquet")
    ]


def test_an_entry_is_changed_in_its_place(add, tmp_path):
    add(with_checkpoint=True, with_tables=True)
    place = tmp_path / "lb" / "digits" / "Linf" / "oat-wrn-10-1.json"
    before = names(tmp_path / "lb")
    publishing.add(records.read(place), tmp_path / "lb", changes={"venue": "v"}, replace=True)
    assert names(tmp_path / "lb") == before
    assert records.read(place).entry.venue == "v"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset": "../../x"}, "cannot be a folder's name"),
        ({"dataset": "a/b"}, "cannot be a folder's name"),
        ({"dataset": "mes images"}, "again, whose data set is then called 'mes-images'"),
        ({"name": "///"}, "no file can be called"),
        ({"name": "Entry"}, "no file can be called"),
        ({"name": ""}, "name is empty"),
        ({"command": "echo"}, "command is 'echo'"),
    ],
)
def test_what_cannot_be_published_leaves_nothing(run, add, tmp_path, changes, message):
    (run / "checkpoint.safetensors").unlink()
    with pytest.raises(UserError, match=message):
        add(changes=changes)
    assert not (tmp_path / "lb").exists()


def test_an_invalid_entry_is_refused(run, add, tmp_path):
    path = run / "entry.json"
    text = path.read_text().replace('"clean_acc":98.0', '"clean_acc":99.0')
    path.write_text(text.replace('"command":"oat-bench run"', '"command":"echo"'))
    with pytest.raises(UserError, match=r"command is 'echo'.* \(and 1 more: oat-bench"):
        add()
    assert not (tmp_path / "lb").exists()


def test_a_checkpoint_that_is_asked_for_must_be_there(run, add, tmp_path):
    (run / "checkpoint.safetensors").unlink()
    with pytest.raises(UserError, match="leave out --with-checkpoint"):
        add(with_checkpoint=True)
    assert not (tmp_path / "lb").exists()


def test_the_entry_is_written_last(add, tmp_path, monkeypatch):
    """A disk that fills up leaves no entry without its outcomes."""
    write, seen = publishing.atomic_write, []

    def full(path, content):
        seen.append(path.name)
        if path.suffix == ".safetensors":
            raise OSError(28, "No space left on device")
        write(path, content)

    monkeypatch.setattr(publishing, "atomic_write", full)
    with pytest.raises(OSError, match="No space"):
        add(with_checkpoint=True)
    assert "oat-wrn-10-1.safetensors" in seen
    assert "oat-wrn-10-1.json" not in seen
    assert not list((tmp_path / "lb").rglob("oat-wrn-10-1.json"))

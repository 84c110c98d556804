"""Attacked images: kept as they were, found again, and what they break elsewhere."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from oat_bench.attacks import in_house, saved
from oat_bench.attacks.card import AttackCard, attack_card
from oat_bench.attacks.cell import CellInfo
from oat_bench.attacks.engines import prepare
from oat_bench.attacks.saved import Images, cards_of, column, count, read, write
from oat_bench.cards import _NAME, Threat
from oat_bench.checkpoint import load
from oat_bench.classifier import OperatingPoint
from oat_bench.errors import UserError
from oat_bench.evaluation import images as kept
from oat_bench.evaluation import transfer
from oat_bench.evaluation.grid import evaluate
from oat_bench.evaluation.images import ImageFolder
from oat_bench.evaluation.subject import Subject
from oat_bench.results.outcomes import OutcomeStore
from oat_bench.tensors import pack

THREAT = Threat(eps=0.25, step_size=0.1)
N = 24
PARTS = {
    "name": "two",
    "engine": "oat_bench",
    "parts": [
        {"name": "one-step", "class": "FGSM", "parameters": {"eps": "$eps"}},
        {
            "name": "steps",
            "class": "PGD",
            "parameters": {"eps": "$eps", "step_size": "$step_size", "steps": 3},
        },
    ],
}


def ready(name="pgd-7", **changes):
    card = name if isinstance(name, AttackCard) else attack_card(name)
    return prepare(card.model_copy(update=changes), THREAT, n_classes=10, seed=0)


def of_file(path):
    return [prepare(card, THREAT, n_classes=10, seed=0) for card in cards_of(path)]


@pytest.fixture(scope="module")
def classifier(trained_folder):
    return load(trained_folder)


@pytest.fixture
def run(classifier, digits, tmp_path):
    def run(attacks, lam=1.0, n=N, images=None, store=None, **options):
        subject = Subject(
            classifier,
            digits.test,
            digits.fingerprint(),
            torch.arange(n),
            store=store or OutcomeStore(None),
            compile_it=False,
            **options,
        )
        return evaluate(subject, [OperatingPoint(lam)], attacks, images=images, show=False)

    return run


@pytest.fixture
def folder(tmp_path):
    return ImageFolder(tmp_path / "images")


def only_file(folder):
    (path,) = folder.folder.glob("*.safetensors")
    return path


# --- what is kept


def test_images_are_those_of_the_attack_all_of_them(run, folder, classifier, digits):
    attack, n = ready(), 200
    frame = run([attack], n=n, images=folder, batch_size=64)
    content, model = read(only_file(folder)), classifier.at(1.0)
    x, y = digits.test.inputs(slice(0, n)), digits.test.labels[:n]
    # what is wrong clean is not attacked for its outcome, but for its image
    right = (model(x).argmax(1) == y).numpy()
    assert not right.all()
    expected = attack(model, x, y, torch.arange(n))
    assert content.images.dtype == torch.float32
    torch.testing.assert_close(content.images, expected, rtol=0, atol=1e-6)
    assert content.example.tolist() == list(range(n))
    assert torch.equal(content.label, y)
    predicted = model(content.images).argmax(1).numpy()
    assert (predicted == frame["attacked_prediction"].to_numpy())[right].all()
    # rounded to 8 bits they would be others
    assert ((content.images * 255) % 1 > 0.01).float().mean() > 0.2


def test_the_header_says_what_they_are(run, folder, classifier, digits):
    attack = ready()
    run([attack], lam=0.5, images=folder)
    with safe_open(only_file(folder), "pt") as file:
        header = json.loads(file.metadata()["oat_bench_images"])
    stated = {k: header[k] for k in ("attack", "lam", "width", "dataset", "model", "data", "card")}
    assert stated == {
        "attack": "pgd-7",
        "lam": 0.5,
        "width": 1.0,
        "dataset": "digits",
        "model": classifier.fingerprint(),
        "data": digits.fingerprint(),
        "card": attack.card.fingerprint(),
    }
    assert (header["norm"], header["eps"], header["seed"]) == ("Linf", 0.25, 0)


def test_an_attack_of_parts_keeps_what_each_part_broke(run, folder, classifier, digits):
    attack = ready(AttackCard.model_validate(PARTS))
    run([attack], images=folder)
    content, y = read(only_file(folder)), digits.test.labels[:N]
    x = digits.test.inputs(slice(0, N))
    expected = attack(classifier.at(1.0), x, y, torch.arange(N))
    torch.testing.assert_close(content.images, expected, rtol=0, atol=1e-6)


def test_attacks_of_other_libraries_keep_what_was_asked_for(run, folder):
    attack = ready("square", parameters={"eps": "$eps", "n_queries": 5, "seed": "$seed"})
    store = OutcomeStore(None)
    first = run([attack], n=10, images=folder, store=store)
    content = read(only_file(folder))
    assert content.example.tolist() == list(range(10))
    again = run([attack], n=10, images=folder, store=store)
    assert first.equals(again)


# --- what is computed once


def test_nothing_is_attacked_twice_but_outcomes_without_images(run, folder, monkeypatch, capsys):
    attacked, own = [], in_house.run
    monkeypatch.setattr(in_house, "run", lambda *xs: attacked.extend(xs[4].tolist()) or own(*xs))
    store = OutcomeStore(None)
    bare = run([ready()], n=10, store=store)
    some = len(attacked)
    assert 0 < some <= 10
    attacked.clear()
    frame = run([ready()], n=10, store=store, images=folder)
    assert frame.equals(bare)
    assert sorted(attacked) == list(range(10))
    assert capsys.readouterr().err == (
        "outcomes that were stored without their images are computed again, for these\n"
    )
    before = read(only_file(folder))
    attacked.clear()
    run([ready()], n=10, store=store, images=folder)
    run([ready()], n=5, store=store, images=folder)
    assert attacked == []
    run([ready()], n=16, store=store, images=folder)
    after = read(only_file(folder))
    assert set(range(10, 16)) <= set(attacked)
    assert len(set(attacked) & set(range(10))) <= 10 - some  # the wrong ones
    assert torch.equal(after.images[:10], before.images)
    assert after.example.tolist() == list(range(16))
    assert capsys.readouterr().err == ""


def test_what_is_large_is_announced_before(run, folder, monkeypatch, capsys):
    run([ready()], images=folder)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(kept, "_LARGE", N * 64 * 4 - 1)
    run([ready()], images=folder)
    err = capsys.readouterr().err
    assert "take 0.0 GB" in err
    assert "--n-examples" in err
    assert kept._LARGE < 1e9


# --- what they break elsewhere


def test_at_another_lambda_they_break_what_transfer_says(run, folder, classifier, digits):
    run([ready()], lam=1.0, images=folder)
    (attack,) = of_file(folder.folder)
    subject = Subject(classifier, digits.test, "d", torch.arange(N))
    expected = transfer.transfer(subject, [1.0], [0.0], ready(), show=False)
    frame = run([attack], lam=0.0, batch_size=5)
    names = ["example", "label", "clean_prediction", "attacked_prediction"]
    assert frame[names].equals(expected[names])
    broken = frame["attacked_prediction"] != frame["label"]
    assert 0 < broken.sum() < N
    same = run([attack], lam=1.0)
    assert same["attacked_prediction"].equals(run([ready()])["attacked_prediction"])


def test_an_image_outside_has_not_broken_its_example(run, folder, tmp_path):
    run([ready()], images=folder)
    content, at_once = read(only_file(folder)), run(of_file(folder.folder))
    broken = at_once.index[
        (at_once["clean_prediction"] == at_once["label"])
        & (at_once["attacked_prediction"] != at_once["label"])
    ]
    assert len(broken) >= 4
    images = content.images.clone()
    far, nan, low, high = broken[:4].tolist()
    images[far] = (images[far] + 0.6).remainder(1.0)  # in the box, outside the ball
    images[nan, 0, 0, 0] = torch.nan
    images[low, 0, 0, 0] = -0.01
    images[high, 0, 0, 0] = 1.01
    path = tmp_path / "changed.safetensors"
    write(path, Images(content.header, content.example, content.label, images))
    frame = run(of_file(path))
    stands = frame["attacked_prediction"] == frame["label"]
    assert stands[[far, nan, low, high]].all()
    others = [i for i in range(N) if i not in (far, nan, low, high)]
    assert frame.loc[others].equals(at_once.loc[others].assign(attack=frame["attack"]))


def test_in_a_smaller_ball_they_count_less(run, folder):
    run([ready()], images=folder)
    (card,) = cards_of(folder.folder)
    narrow = prepare(card, Threat(eps=0.01), n_classes=10, seed=0)
    frame = run([narrow])
    assert (frame["attacked_prediction"] == frame["clean_prediction"]).all()


@settings(max_examples=50)
@given(
    attack=st.text("aZ09._+-", max_size=63).map("a{}".format),
    model=st.text(max_size=70),
    lam=st.floats(0, 1),
    width=st.floats(0, 1, exclude_min=True),
)
def test_the_column_has_a_name(attack, model, lam, width):
    header = CellInfo.model_construct(attack=attack, model=model, lam=lam, width=width)
    assert _NAME.fullmatch(column(header))
    assert "-from-" in column(header)


# --- what is refused


@pytest.fixture
def content(run, folder):
    run([ready()], images=folder)
    return read(only_file(folder))


def test_images_of_other_data_are_refused(content, digits, tmp_path):
    path = tmp_path / "other.safetensors"

    def refused(header=content.header, **changes):
        values = {k: changes.get(k, getattr(content, k)) for k in ("example", "label", "images")}
        write(path, Images(header, **values))
        with pytest.raises(UserError) as error:
            count(*of_file(path), digits, torch.arange(N))
        assert str(path) in str(error.value)
        return str(error.value)

    other = content.header.model_copy(update={"data": "0" * 64, "dataset": "svhn"})
    assert "data set 'svhn'" in refused(other)
    assert "fingerprints differ" in refused(other)
    assert "labels" in refused(label=(content.label + 1) % 10)
    assert "examples" in refused(example=content.example + len(digits.test))
    assert "shape" in refused(images=content.images[:, :, :, :7])
    assert "lacks the first" in refused(
        example=content.example + 1, label=digits.test.labels[1 : N + 1]
    )
    write(path, content)
    (attack,) = of_file(path)
    for asked, there in [(5, 5), (N, N), (N + 6, N)]:
        assert count(attack, digits, torch.arange(asked)) == there
    with pytest.raises(UserError, match="holds other examples"):
        attack(torch.nn.Identity(), content.images, content.label, content.example + 1)


def test_files_that_are_something_else_are_refused(content, trained_folder, tmp_path):
    path = tmp_path / "x.safetensors"
    header = {"oat_bench_images": content.header.model_dump_json()}
    good = {name: getattr(content, name) for name in ("images", "example", "label")}
    pixels = (255 * content.images).byte()
    for tensors, described, words in [
        (good, {}, "not attacked images"),
        (good | {"more": torch.zeros(1)}, header, "not attacked images"),
        (good | {"images": pixels}, header, "images is not torch.float32"),
        (good | {"label": content.label[:3]}, header, "each once"),
        (good | {"example": torch.zeros_like(content.example)}, header, "each once"),
        ({k: v[:0] for k, v in good.items()}, header, "each once"),
        (good, {"oat_bench_images": "{}"}, "is missing"),
        (good, {"oat_bench_images": "nonsense"}, "not attacked images"),
        (good, {"oat_bench_images": header["oat_bench_images"].replace("pgd-7", "a b")}, "attack"),
    ]:
        path.write_bytes(pack(tensors, described))
        with pytest.raises(UserError, match=words) as error:
            cards_of(path)
        assert "\n" not in str(error.value)
    path.write_bytes(b"x" * 100)
    with pytest.raises(UserError, match="damaged"):
        cards_of(path)
    with pytest.raises(UserError, match="not attacked images"):
        cards_of(trained_folder)
    for nothing in (tmp_path / "no", tmp_path / "empty"):
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(UserError, match="no attacked images at"):
            cards_of(nothing)


def test_a_file_that_changed_since_is_refused(content, tmp_path):
    path = tmp_path / "x.safetensors"
    write(path, content)
    (card,) = cards_of(path)
    saved._open.cache_clear()
    write(path, Images(content.header, content.example, content.label, content.images / 2))
    with pytest.raises(UserError, match="changed since"):
        prepare(card, THREAT, n_classes=10, seed=0)

"""Building the site: always the same, nothing but its own files, one line of what is wrong."""

import importlib.metadata
import json
import re
from email.message import Message
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from site_page import Page

from oat_bench import datasets
from oat_bench.checkpoint import save
from oat_bench.cli.group import cli
from oat_bench.errors import UserError
from oat_bench.leaderboards import site
from oat_bench.leaderboards.site import building
from oat_bench.leaderboards.site.plan import slug

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def entry(leaderboards_folder):
    return json.loads((leaderboards_folder / "digits/Linf/oat-wrn-10-1.json").read_text())


def test_two_builds_are_the_same(site_folder, leaderboards_folder, tmp_path):
    site.build(leaderboards_folder, tmp_path)
    files = {p.relative_to(tmp_path) for p in tmp_path.rglob("*") if p.is_file()}
    assert files == {p.relative_to(site_folder) for p in site_folder.rglob("*") if p.is_file()}
    for file in files:
        assert (tmp_path / file).read_bytes() == (site_folder / file).read_bytes(), file


def test_a_later_build_removes_what_is_gone_and_nothing_else(leaderboards_folder, tmp_path):
    boards, out = tmp_path / "boards", tmp_path / "site"
    boards.mkdir()
    text = (leaderboards_folder / "digits/Linf/masked.json").read_text()
    for name in ("first", "second"):
        (boards / f"{name}.json").write_text(text)
    site.build(boards, out, with_examples=False)
    (out / "CNAME").write_text("mine")
    (boards / "second.json").unlink()
    listed = out / building._LIST
    names = json.loads(listed.read_text())
    outside = tmp_path / "precious"
    outside.write_text("mine")
    listed.write_text(json.dumps([*names, "../precious", str(outside)]))
    site.build(boards, out, with_examples=False)
    assert (out / "digits-Linf-0.375/first.html").is_file()
    assert not list(out.rglob("second*"))
    assert (out / "CNAME").read_text() == outside.read_text() == "mine"


def test_a_folder_of_other_files_is_left_alone(leaderboards_folder, tmp_path):
    (tmp_path / "index.html").write_text("mine")
    with pytest.raises(UserError, match="holds other files"):
        site.build(leaderboards_folder, tmp_path)
    assert (tmp_path / "index.html").read_text() == "mine"
    assert len(list(tmp_path.iterdir())) == 1


def test_no_examples(leaderboards_folder, tmp_path):
    boards = tmp_path / "boards"
    boards.mkdir()
    for file in (leaderboards_folder / "digits/Linf").glob("oat-*"):
        (boards / file.name).write_bytes(file.read_bytes())
    made = site.build(boards, tmp_path / "site", with_examples=False)
    assert (made.boards, made.models, made.without_examples) == (1, 1, {})
    page = Page(tmp_path / "site/digits-Linf-0.375/oat-wrn-10-1.html")
    assert "--no-examples" in " ".join(page.text)
    text = re.sub(r"\s+", " ", "".join(Page(tmp_path / "site/index.html").text))
    assert "Only one model has a rank: OAT wrn-10-1." in text
    assert "Best:" not in text


def test_of_a_tie_none_is_the_best(leaderboards_folder, tmp_path):
    boards = tmp_path / "boards"
    boards.mkdir()
    for file in (leaderboards_folder / "digits/Linf").glob("oat-*"):
        for name in ("a", "b"):
            (boards / file.name.replace("oat-wrn-10-1", name)).write_bytes(file.read_bytes())
    site.build(boards, tmp_path / "site", with_examples=False)
    text = re.sub(r"\s+", " ", "".join(Page(tmp_path / "site/index.html").text))
    assert "No single best: OAT wrn-10-1 (a), OAT wrn-10-1 (b) are statistically tied" in text
    assert "Best:" not in text
    # a method has one colour and one symbol on every board
    page = Page(tmp_path / "site/digits-Linf-0.375/index.html")
    looks = {a["class"].split()[1] for tag, a in page.elements if tag == "g" and "data-curve" in a}
    assert looks == {"c0"}


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("model_fingerprint", "the checkpoint beside the entry is of another model"),
        ("data_fingerprint", "the data set at hand is not the one that the entry is of"),
    ],
)
def test_images_of_another_model_or_data_set_are_not_shown(
    key, reason, leaderboards_folder, tmp_path
):
    boards = tmp_path / "boards"
    boards.mkdir()
    for file in (leaderboards_folder / "digits/Linf").glob("oat-*"):
        (boards / file.name).write_bytes(file.read_bytes())
    path = boards / "oat-wrn-10-1.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: "0" * 64}))
    made = site.build(boards, tmp_path / "site")
    assert list(made.without_examples.values()) == [reason]


def test_images_of_a_folder_are_found_in_the_data_dir(build_classifier, entry, tmp_path):
    """A data set that is a folder of images, by the name of the folder."""
    for label, image in enumerate(np.random.default_rng(0).integers(0, 256, (4, 12, 8, 8))):
        folder = tmp_path / "data" / "mine" / str(label)
        folder.mkdir(parents=True)
        for number, pixels in enumerate(image.astype(np.uint8)):
            Image.fromarray(pixels).save(folder / f"{number}.png")
    classifier = build_classifier(dataset="mine", num_classes=4)
    boards = tmp_path / "boards"
    boards.mkdir()
    save(classifier, boards / "mine.safetensors")
    changes = {"dataset": "mine", "model_fingerprint": classifier.fingerprint()}
    changes["data_fingerprint"] = datasets.load(str(tmp_path / "data" / "mine")).fingerprint()
    (boards / "mine.json").write_text(json.dumps(entry | changes))
    made = site.build(boards, tmp_path / "site")
    assert made.without_examples == {}
    assert Page(tmp_path / "site/mine-Linf-0.375/mine.html").data()["widths"][0]["examples"] is None
    made = site.build(boards, tmp_path / "site", data_dir=tmp_path / "data")
    assert made.without_examples == {}
    page = Page(tmp_path / "site/mine-Linf-0.375/mine.html")
    assert len(page.data()["widths"][0]["examples"][0]) == 8


def test_l2_has_a_page_of_its_own(tmp_path):
    shipped = Path(__file__).parents[2] / "leaderboards" / "fashion-12x12"
    made = site.build(shipped, tmp_path)
    assert (made.boards, made.models, made.without_examples) == (2, 2, {})
    for norm in ("Linf", "L2"):
        entry = json.loads((shipped / norm / "oat-wrn-10-1.json").read_text())
        board = tmp_path / f"fashion-12x12-{norm}-{entry['eps']}"
        text = " ".join(Page(board / "index.html").text)
        assert f"{norm} eps {entry['eps']}" in text
        (width,) = Page(board / "oat-wrn-10-1.html").data()["widths"]
        once = {"L2": {"fgm", "mi-fgm"}, "Linf": {"fgsm", "mi-fgsm"}}[norm]
        both = {"pgd-7", "pgd-20", "autoattack", "worst"}
        assert [point["ra"].keys() for point in width["points"]] == [once | both] * 6
        assert len(width["examples"]) == 6


def test_models_of_robustbench_are_beside_ours(leaderboards_folder, tmp_path):
    boards, folder = tmp_path / "boards", tmp_path / "clone/model_info/cifar10/Linf"
    boards.mkdir()
    folder.mkdir(parents=True)
    text = json.loads((leaderboards_folder / "digits/Linf/masked.json").read_text())
    (boards / "a.json").write_text(json.dumps(text | {"dataset": "cifar10", "eps": "8/255"}))
    theirs = {"name": "<b>Theirs", "eps": "8/255", "clean_acc": "90.25", "autoattack_acc": "60.5"}
    theirs["external"] = "59.25"
    for name, eps in (("Shown", "8/255"), ("Other", "2/255")):
        (folder / f"{name}.json").write_text(json.dumps(theirs | {"eps": eps}))
    site.build(boards, tmp_path / "site", with_examples=False, robustbench=tmp_path / "clone")
    page = Page(tmp_path / "site/cifar10-Linf-8-255/index.html")
    text = re.sub(r"\s+", " ", " ".join(page.text))
    # under AutoAttack as it was run, in the worst case the best known
    for ra in ("60.5", "59.2"):
        assert f"<b>Theirs: ; SA 90.2, RA {ra}" in text
    assert "59.25" in text
    assert "Other" not in text


@pytest.mark.parametrize(
    ("content", "says"),
    [(None, "no folder"), ("{", "not an entry"), ("", "no entries")],
)
def test_bad_leaderboards_are_one_line(content, says, tmp_path):
    folder = tmp_path / "boards"
    if content is not None:
        folder.mkdir()
    if content:
        (folder / "x.json").write_text(content)
    with pytest.raises(UserError, match=says):
        site.build(folder, tmp_path / "site")
    assert not (tmp_path / "site").exists()


def test_a_page_is_light(site_folder):
    """With all that it loads but pictures of test images, and its figures: under 600 KB."""
    shared = sum(path.stat().st_size for path in (site_folder / "assets").iterdir())
    for path in site_folder.rglob("*.html"):
        own = len(re.sub(r"data:image/png;base64,[\w+/=]*", "", path.read_text()))
        assert shared + own < 600_000, path


def test_the_command(leaderboards_folder, tmp_path, monkeypatch):
    about = Message()
    about["Project-URL"] = "Documentation, https://example.org/docs"
    monkeypatch.setattr(importlib.metadata, "metadata", {"oat-bench": about}.__getitem__)
    out = tmp_path / "site"
    arguments = ["--leaderboards", str(leaderboards_folder / "other"), "--out", str(out)]
    arguments += ["--no-examples", "--link", "Code=https://example.org/x?a=1&b=2"]
    result = CliRunner().invoke(cli, ["leaderboard", "build", *arguments])
    assert result.exit_code == 0, result.output
    page = Page(out / "index.html")
    shown = {"https://example.org/docs", "https://example.org/x?a=1&b=2"}
    assert shown <= {link for _, link in page.links()}
    assert f"{out / 'index.html'}: 1 model, 1 leaderboard" in result.output


# --- names of pages


@given(st.lists(st.text(), min_size=1))
def test_slugs_are_names_of_files_and_differ(texts):
    taken = set()
    names = [slug(text, taken) for text in texts]
    assert len({name.lower() for name in names}) == len(names)
    for name in names:
        assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,70}", name)
        assert name.lower() not in ("assets", "index")
    again = set()
    assert names == [slug(text, again) for text in texts]


def test_slugs_keep_what_can_be_kept():
    assert slug("svhn-part-Linf-8/255", set()) == "svhn-part-Linf-8-255"
    assert slug("../../etc", set()) == "etc"
    assert slug("digits", {"digits"}) == "digits-2"

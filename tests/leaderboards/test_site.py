"""The site as files: well-formed, escaped, whole, the same every time. No browser."""

import base64
import io
import json
import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from oat_bench import datasets
from oat_bench.checkpoint import save
from oat_bench.cli.group import cli
from oat_bench.errors import UserError
from oat_bench.leaderboards import site
from oat_bench.leaderboards.site import building
from oat_bench.leaderboards.site.plan import slug

pytestmark = pytest.mark.slow
VOID = {"meta", "link", "img", "input", "br"}
#: attributes that make a browser fetch something
FETCHES = {"src", "srcset", "data", "poster", "action", "formaction", "background", "data-library"}


class Page(HTMLParser):
    """A page's elements and text; raises where tags do not nest."""

    def __init__(self, path):
        super().__init__(convert_charrefs=True)
        self.path, self.open = path, []
        self.elements, self.text, self.scripts = [], [], []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        assert len(dict(attributes)) == len(attributes), (
            f"{self.path}: <{tag}> repeats an attribute"
        )
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"{self.path}: </{tag}> closes another element"

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.scripts[-1] += data
        else:
            self.text.append(data)

    def data(self):
        return json.loads(next(script for script in self.scripts if script))

    def links(self):
        for tag, attributes in self.elements:
            for name in ("href", "src", "data-library"):
                if name in attributes:
                    yield tag, attributes[name]


@pytest.fixture(scope="module")
def pages(site_folder):
    return {
        path.relative_to(site_folder).as_posix(): Page(path)
        for path in sorted(site_folder.rglob("*.html"))
    }


@pytest.fixture(scope="module")
def entry(leaderboards_folder):
    return json.loads((leaderboards_folder / "digits/Linf/oat-wrn-10-1.json").read_text())


BOARD, MODEL = "digits-Linf-0.375/index.html", "digits-Linf-0.375/oat-wrn-10-1.html"


# --- pages


def test_there_is_a_page_for_each_board_and_model(pages):
    assert {"index.html", BOARD, MODEL, "digits-Linf-0.375/masked.html"} < pages.keys()
    assert len(pages) == 1 + 2 + 5


def test_ids_are_unique_and_labels_find_them(pages):
    for page in pages.values():
        ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
        assert len(ids) == len(set(ids))
        for _, attributes in page.elements:
            for name in ("for", "aria-labelledby", "list", "data-copies"):
                assert set(attributes.get(name, "").split()) <= set(ids)


def test_every_link_leads_to_a_file(pages, site_folder):
    for page in pages.values():
        assert [link for _, link in page.links()]
        for _, link in page.links():
            parts = urlsplit(link)
            if parts.scheme in ("http", "https", "data") or not parts.path:
                continue
            assert not parts.scheme
            assert (page.path.parent / unquote(parts.path)).is_file(), f"{page.path}: {link}"
        for tag, link in page.links():
            if tag == "a" and link.startswith("#"):
                assert any(a.get("id") == link[1:] for _, a in page.elements)


def test_nothing_is_fetched_from_elsewhere(pages, site_folder):
    for page in pages.values():
        for tag, attributes in page.elements:
            fetched = FETCHES | ({"href"} if tag == "link" else set())
            for name in fetched & attributes.keys():
                assert urlsplit(attributes[name]).scheme in ("", "data")
            assert "style" not in attributes
            assert not [name for name in attributes if name.startswith("on")]
    for asset in ("site.css", "site.js", "chart.js", "board.js", "model.js"):
        text = (site_folder / "assets" / asset).read_text()
        assert not re.search(r"https?://|@import|url\(|fetch\(|XMLHttpRequest|innerHTML", text)


def test_a_policy_forbids_everything_else(pages):
    for name, page in pages.items():
        (policy,) = [
            attributes["content"]
            for tag, attributes in page.elements
            if tag == "meta" and attributes.get("http-equiv") == "Content-Security-Policy"
        ]
        rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
        assert rules["default-src"] == "'none'"
        assert rules["script-src"] == "'self'"
        assert rules["base-uri"] == rules["form-action"] == "'none'"
        # the library of the charts writes styles
        assert ("'unsafe-inline'" in rules["style-src"]) == (name != "index.html")


def test_hostile_text_is_text(pages, hostile):
    seen = 0
    for page in pages.values():
        allowed = {("src", True), ("application/json", False)}
        for tag, attributes in page.elements:
            if tag == "script":
                assert (attributes.get("type", "src"), "src" in attributes) in allowed
            assert "onerror" not in attributes
            assert not attributes.get("href", "").startswith("javascript")
        seen += hostile in "".join(page.text)
        assert "\u202e" not in next(t for t in "".join(page.text).splitlines() if t)
    # on its page, on that of its data set, and a data set of this name on three
    assert seen == 5


def test_hostile_text_is_whole_in_the_data(pages, hostile):
    rows = pages[BOARD].data()["rows"]
    assert hostile in {row["method"] for row in rows}


# --- what they say


def test_a_model_page_has_every_number_of_its_entry(pages, entry):
    (width,) = pages[MODEL].data()["widths"]
    text = re.sub(r"\s+", " ", " ".join(pages[MODEL].text))
    for point, shown in zip(entry["operating_points"], width["points"], strict=True):
        accuracies = {**point["robust_acc"], "worst": point["worst_case_acc"]}
        expected = {
            name: [ra["value"], ra["low"], ra["high"], ra["n"] or point["n"]]
            for name, ra in accuracies.items()
        }
        assert shown["ra"] == expected
        assert shown["sa"][0] == point["clean_acc"]
        assert f"{accuracies['worst']['value']:.1f}" in text
    for words in (entry["command"], entry["model_fingerprint"], entry["interpolation"], "Parquet"):
        assert words in text


def test_a_model_page_says_what_its_attacks_took(pages, entry):
    text = {
        page: re.sub(r"\s+", " ", " ".join(pages[page].text))
        for page in (MODEL, MODEL.replace("oat-wrn-10-1", "masked"))
    }
    took, n = "fgsm + mi-fgsm {} 22.5 {:,.1f} a machine", len(entry["operating_points"])
    published, costed = text.values()
    assert took.format(100 * n, 300.5 * n) in costed
    assert "What the attacks took" not in published


def test_a_board_is_ordered_and_the_unreliable_are_last(pages, entry):
    rows = pages[BOARD].data()["rows"]
    assert len(rows) == 6  # the model of three widths has three
    volumes = [row["scores"]["worst"]["hypervolume"][0] for row in rows]
    doubtful = [bool(row["scores"]["worst"]["doubts"]) for row in rows]
    assert doubtful == [False] * 5 + [True]
    # those of other examples are below those with a rank
    ranked = [row["scores"]["worst"]["rank"] is not None for row in rows[:5]]
    assert ranked == sorted(ranked, reverse=True)
    assert sum(ranked) >= 2
    assert all(a >= b for a, b in pairwise(volumes[: sum(ranked)]))
    for row, place in zip(rows, ranked, strict=False):
        remark = row["scores"]["worst"]["remark"]
        assert place or re.fullmatch(r"of \d+ examples.*, the ranked ones of .*", remark)
    (stated,) = [one for one in entry["frontiers"] if one["attack"] == "worst"]
    (ours,) = [row for row in rows if row["label"].startswith("OAT wrn-10-1")]
    assert ours["scores"]["worst"]["hypervolume"] == list(stated["hypervolume"].values())[:3]
    assert "Unreliable:" in " ".join(pages[BOARD].text)


def test_examples_end_as_the_evaluation_found(pages, leaderboards_folder):
    """The outcomes beside the entry are of the command that published it."""
    outcomes = pd.read_parquet(leaderboards_folder / "digits/Linf/oat-wrn-10-1.parquet")
    outcomes = outcomes[outcomes["attack"] == "pgd-20"].set_index(["lam", "example"])
    ids = [
        int(match[1])
        for tag, attributes in pages[MODEL].elements
        if tag == "img" and (match := re.match(r"Test image (\d+), clean", attributes["alt"]))
    ]
    assert len(ids) == 8
    (width,) = pages[MODEL].data()["widths"]
    for point, examples in zip(width["points"], width["examples"], strict=True):
        for example, (_, clean, attacked) in zip(ids, examples, strict=True):
            row = outcomes.loc[point["lam"], example]
            assert int(clean) == row["clean_prediction"]
            # an image that is wrong already was not attacked in the evaluation
            if row["clean_prediction"] == row["label"]:
                assert int(attacked) == row["attacked_prediction"]


def test_attacked_images_are_within_eps_of_the_test_images(pages, entry):
    test = datasets.load("digits").test
    (width,) = pages[MODEL].data()["widths"]
    ids = datasets.nested_order(test.labels)[:8]
    images = test.inputs(ids)[:, 0].numpy()
    for examples in width["examples"]:
        for (uri, _, _), image in zip(examples, images, strict=True):
            content = base64.b64decode(uri.removeprefix("data:image/png;base64,"))
            shown = np.asarray(Image.open(io.BytesIO(content)))
            assert shown.shape == (8, 8)
            distance = np.abs(shown / 255 - image).max()
            assert 0.1 < distance <= float(entry["eps"]) + 0.5 / 255 + 1e-6


def test_a_page_says_why_it_has_no_images(pages):
    text = " ".join(pages["digits-Linf-0.375/masked.html"].text)
    assert "there is no checkpoint beside the entry" in text
    assert pages["digits-Linf-0.375/masked.html"].data()["widths"][0]["examples"] is None


def test_the_published_files_are_beside_the_page(site_folder, leaderboards_folder):
    for ending in ("json", "parquet"):
        published = leaderboards_folder / f"digits/Linf/oat-wrn-10-1.{ending}"
        copy = site_folder / f"digits-Linf-0.375/oat-wrn-10-1.{ending}"
        assert copy.read_bytes() == published.read_bytes()


def test_colours_can_be_read_in_both_schemes(site_folder):
    """Contrast of WCAG 2.1, level AA."""

    def luminance(colour):
        channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return np.dot(linear, (0.2126, 0.7152, 0.0722))

    def contrast(a, b):
        low, high = sorted((luminance(a), luminance(b)))
        return (high + 0.05) / (low + 0.05)

    css = (site_folder / "assets/site.css").read_text()
    blocks = re.findall(r":root \{(.*?)\}", css, re.DOTALL)[:2]
    for block in blocks:
        colours = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6})", block))
        for text in ("text", "soft", "link", "right", "wrong"):
            for ground in ("page", "plate", "row"):
                assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
        assert contrast(colours["doubt"], colours["doubt-plate"]) >= 4.5
        assert contrast(colours["accent"], colours["page"]) >= 3


# --- building


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
    assert list(made.without_examples.values()) == ["the data set was not at hand (--data-dir)"]
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
    (point,) = page.data()["fixed"]
    assert (point["label"], point["sa"]) == ("<b>Theirs", 90.25)
    assert point["ra"] | {"fgsm": None, "worst": 59.25, "autoattack": 60.5} == point["ra"]
    assert "59.25" in " ".join(page.text)


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


def test_without_plotly_it_says_what_to_install(leaderboards_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(building, "files", lambda name: Path(tmp_path))
    with pytest.raises(UserError, match=r"pip install 'oat-bench\[site\]'"):
        site.build(leaderboards_folder, tmp_path / "site")


def test_the_command(leaderboards_folder, tmp_path):
    out = tmp_path / "site"
    arguments = ["--leaderboards", str(leaderboards_folder / "other"), "--out", str(out)]
    result = CliRunner().invoke(cli, ["leaderboard", "build", *arguments, "--no-examples"])
    assert result.exit_code == 0, result.output
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

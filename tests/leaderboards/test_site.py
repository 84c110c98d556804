"""The site as files: well-formed, escaped, whole, the same every time. No browser."""

import base64
import io
import json
import re
from itertools import pairwise
from urllib.parse import unquote, urlsplit

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from site_page import Page

from oat_bench import datasets

pytestmark = pytest.mark.slow
#: attributes that make a browser fetch something
FETCHES = {"src", "srcset", "data", "poster", "action", "formaction", "background"}


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
    for page in pages.values():
        (policy,) = [
            attributes["content"]
            for tag, attributes in page.elements
            if tag == "meta" and attributes.get("http-equiv") == "Content-Security-Policy"
        ]
        rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
        assert rules["default-src"] == "'none'"
        assert rules["script-src"] == rules["style-src"] == "'self'"
        assert rules["base-uri"] == rules["form-action"] == "'none'"


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


def test_without_a_checkpoint_nothing_is_said_of_images(pages):
    assert "images attacked" not in " ".join(pages["digits-Linf-0.375/masked.html"].text)
    assert pages["digits-Linf-0.375/masked.html"].data()["widths"][0]["examples"] is None


def test_the_published_files_are_beside_the_page(site_folder, leaderboards_folder):
    for ending in ("json", "parquet", "safetensors"):
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

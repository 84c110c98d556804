"""The site as its readers meet it, in Chromium: what moves, what is said, what is asked for."""

import json
import re

import numpy as np
import pytest
from visits import BOARD, DESKTOP, MODEL, PHONE, WIDTHS, drawn, eventually

from oat_bench.statistics.frontier import robustness_at

pytestmark = pytest.mark.slow


def column(page, head):
    """Return what the visible rows of the models have in a column."""
    place = page.locator("#models thead th").all_inner_texts()
    (at,) = [i for i, text in enumerate(place) if text.strip().startswith(head)]
    return [
        row.locator("th, td").nth(at).inner_text().split("\n")[0].strip()
        for row in page.locator("#models tbody tr:visible").all()
    ]


def volumes(page):
    return [float(text) for text in column(page, "Hypervolume")]


# --- every page


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_page_fits_and_is_in_the_readers_colours(visit, site_folder, viewport, scheme):
    paths = sorted(p.relative_to(site_folder).as_posix() for p in site_folder.rglob("*.html"))
    page = visit("index.html", viewport=viewport, color_scheme=scheme)
    for path in paths:
        page.goto((site_folder / path).as_uri())
        if page.locator("#chart").count():
            drawn(page)
        width = page.evaluate("document.documentElement.scrollWidth")
        assert width <= viewport["width"], path
        grounds = page.evaluate(
            """() => ["body"].map((selector) => {
                const found = document.querySelector(selector);
                return found ? getComputedStyle(found).backgroundColor : null;
            })"""
        )
        for ground in filter(None, grounds):
            brightness = np.mean([int(part) for part in re.findall(r"\d+", ground)[:3]])
            assert (brightness > 128) == (scheme == "light"), (path, ground)
        assert page.evaluate("typeof pwned") == "undefined"


def test_the_colours_follow_while_the_page_is_open(visit):
    page = visit(BOARD, color_scheme="light")
    drawn(page)
    drawn_in = "getComputedStyle(document.querySelector('#chart .tick')).fill"
    assert page.evaluate(drawn_in) == "rgb(85, 97, 108)"
    page.emulate_media(color_scheme="dark")
    eventually(lambda: page.evaluate(drawn_in) == "rgb(163, 175, 186)")


def test_links_lead_from_page_to_page(visit):
    page = visit("index.html")
    page.get_by_role("link", name="digits", exact=True).click()
    page.wait_for_url("**/digits-Linf-0.375/index.html")
    page.get_by_role("link", name="OAT wrn-10-1", exact=False).first.click()
    page.wait_for_url(f"**/{MODEL}")
    assert page.locator("h1").inner_text() == "OAT wrn-10-1"
    page.get_by_role("link", name="JSON").click()
    page.wait_for_url("**/oat-wrn-10-1.json")
    assert json.loads(page.locator("pre").inner_text())["name"] == "OAT wrn-10-1"
    page.go_back()
    page.get_by_role("navigation").get_by_role("link", name="oat-bench leaderboards").click()
    page.wait_for_url("**/index.html")


def test_the_first_tab_skips_to_the_content(visit):
    page = visit(MODEL)
    page.keyboard.press("Tab")
    skip = page.locator(".skip")
    assert skip.evaluate("found => found === document.activeElement")
    assert skip.bounding_box()["x"] >= 0
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"


def test_what_has_the_focus_is_seen(visit):
    page = visit(BOARD)
    for _ in range(12):
        page.keyboard.press("Tab")
        style = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert style != "none", page.evaluate("document.activeElement.outerHTML")


def test_without_javascript_the_numbers_are_there(visit, entry):
    page = visit(BOARD, java_script_enabled=False)
    assert page.locator("#models tbody tr").count() == 6
    assert not page.locator("#controls").is_visible()
    page.goto(page.url.replace("index.html", "oat-wrn-10-1.html"))
    assert page.locator(".points tbody tr").count() == len(entry["operating_points"])
    assert not page.locator("#slider").is_visible()
    assert page.locator("#examples img").count() == 16
    assert page.locator("#chart .mark:visible").count() > len(entry["operating_points"])


def test_on_paper_controls_are_left_out(visit):
    page = visit(MODEL, color_scheme="dark")
    drawn(page)
    page.emulate_media(media="print")
    assert not page.locator("#controls").is_visible()
    assert page.locator("table.points").is_visible()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"


@pytest.mark.parametrize(("viewport", "scheme"), [(DESKTOP, "light"), (PHONE, "dark")])
def test_axe_finds_nothing(visit, viewport, scheme):
    """Rules of accessibility by axe-core."""
    from axe_playwright_python.sync_playwright import Axe

    # it would fetch the style once more, which the pages' policy forbids
    options = {"resultTypes": ["violations"], "preload": False}
    for path in ("index.html", BOARD, MODEL, WIDTHS, "digits-Linf-0.375/masked.html"):
        page = visit(path, viewport=viewport, color_scheme=scheme)
        found = Axe().run(page, options=options)
        assert found.violations_count == 0, (path, found.generate_report())


# --- the table


def test_the_table_sorts_by_each_head(visit):
    page = visit(BOARD)
    head = page.locator("#models thead th", has_text="Hypervolume")
    assert head.get_attribute("aria-sort") == "descending"
    first = volumes(page)
    assert first[:5] == sorted(first[:5], reverse=True)
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    assert volumes(page)[:5] == sorted(first[:5])
    # the unreliable one is last either way
    assert volumes(page)[5] == first[5]
    model = page.locator("#models thead th", has_text="Model")
    model.locator("button").focus()
    page.keyboard.press("Enter")
    assert model.get_attribute("aria-sort") == "ascending"
    assert head.get_attribute("aria-sort") is None
    names = column(page, "Model")[:5]
    assert names == sorted(names, key=str.casefold)
    page.keyboard.press("Space")
    assert column(page, "Model")[:5] == names[::-1]


def test_filters_choose_rows_and_curves(visit):
    page = visit(BOARD)
    drawn(page)
    curves = page.locator("#chart .view:visible .curve:not([hidden])")
    assert curves.count() == page.locator("#models tbody tr:visible").count() == 6
    page.locator("#filter").fill("OATS width 0.5")
    assert column(page, "Method") == ["oats"]
    assert page.locator("#count").inner_text() == "1 of 6 shown"
    assert curves.count() == 1
    page.locator("#filter").fill("")
    page.get_by_label("Hide unreliable").check()
    assert page.locator("#count").inner_text() == "5 of 6 shown"
    page.get_by_label("oats", exact=True).uncheck()
    assert "oats" not in column(page, "Method")
    assert curves.count() == page.locator("#models tbody tr:visible").count() == 2


def test_another_attack_changes_every_number(visit, leaderboards_folder):
    page = visit(BOARD)
    page.locator("#attack").select_option("pgd-20")
    for name in ("oat", "oats"):
        entry = json.loads((leaderboards_folder / f"digits/Linf/{name}-wrn-10-1.json").read_text())
        for stated in entry["frontiers"]:
            if stated["attack"] != "pgd-20":
                continue
            label = entry["name"] + (f", width {stated['width']:g}" if name == "oats" else "")
            (row,) = [
                row
                for row in page.locator("#models tbody tr").all()
                if row.locator("th a").inner_text().split(" (")[0] == label
            ]
            shown = row.locator("[data-cell=hypervolume]").inner_text().split()
            volume = stated["hypervolume"]
            assert shown[0] == f"{volume['value']:.1f}"
            assert shown[1] == f"{volume['low']:.1f}\u2013{volume['high']:.1f}"
            last = max(
                (p for p in entry["operating_points"] if p["width"] == stated["width"]),
                key=lambda p: p["lam"],
            )
            ends = row.locator("[data-cell=robust-end]").inner_text().split("\n")[0]
            assert ends == f"{last['clean_acc']:.1f} / {last['robust_acc']['pgd-20']['value']:.1f}"
    assert volumes(page)[:5] == sorted(volumes(page)[:5], reverse=True)


def test_ra_at_a_required_sa_is_that_of_the_package(visit, entry):
    page = visit(BOARD)
    points = [(p["clean_acc"], p["worst_case_acc"]["value"]) for p in entry["operating_points"]]
    row = page.locator("#models tbody tr", has_text="OAT wrn-10-1").first
    for sa in (0, 97.4, 97.7, 98, 98.3, 98.8, 99.5):
        page.locator("#required").fill(str(sa))
        expected = robustness_at(sa, points)[0]
        shown = row.locator("[data-cell=robust]").inner_text()
        if np.isnan(expected):
            assert shown == "\u2013"
        else:
            assert abs(float(shown) - expected) <= 0.05 + 1e-9


# --- charts


def test_a_point_says_what_it_is(visit, entry):
    page = visit(MODEL)
    drawn(page)
    point = entry["operating_points"][-1]
    ra, clean = point["robust_acc"]["fgsm"], point["clean_acc_interval"]
    page.locator("#chart .curve[data-curve=fgsm] .mark .symbol").last.hover(force=True)
    says = page.locator("#chart-says").inner_text()
    for words in (
        "fgsm",
        "lambda 1",
        "width 1",
        "n 500",
        f"SA {clean['value']:.1f} [{clean['low']:.1f}, {clean['high']:.1f}]",
        f"RA {ra['value']:.1f} [{ra['low']:.1f}, {ra['high']:.1f}]",
    ):
        assert words in says


def test_points_stand_where_their_numbers_are(visit, entry):
    page = visit(MODEL)
    ticks = [
        (float(tick.inner_html()), box["x"] + box["width"] / 2)
        for tick in page.locator("#chart .view:visible .tick[text-anchor=middle]").all()
        if (box := tick.bounding_box())
    ]
    scale = np.polyfit(*zip(*ticks, strict=True), 1)
    symbols = page.locator("#chart .curve[data-curve=worst] .mark .symbol").all()
    for point, symbol in zip(entry["operating_points"], symbols, strict=True):
        box = symbol.bounding_box()
        expected = np.polyval(scale, point["clean_acc"])
        assert abs(box["x"] + box["width"] / 2 - expected) < 1.5


def test_keys_go_from_point_to_point(visit):
    page = visit(BOARD)
    drawn(page)
    page.locator("#chart").focus()
    said = []
    for key in ("ArrowRight", "ArrowRight", "ArrowDown"):
        page.keyboard.press(key)
        said.append(page.locator("#chart-says").inner_text())
    assert "lambda 0," in said[0]
    assert "lambda 0.1," in said[1]
    assert said[2].split(";")[0] != said[1].split(";")[0]


def test_what_is_chosen_is_in_the_address(visit):
    """A view is linked by its address alone."""
    page = visit(BOARD)
    page.locator("#attack").select_option("pgd-20")
    page.locator("#filter").fill("oats")
    page.locator("#models thead th", has_text="FLOPs").locator("button").click()
    rows = page.locator("#models").inner_text()
    address = page.url
    assert address.endswith("#attack=pgd-20&filter=oats&sort=flops")
    other = visit(BOARD + "#" + address.split("#")[1])
    assert other.locator("#models").inner_text() == rows
    # a choice of a page that it does not have changes nothing
    other.goto(address.replace("pgd-20", "none"))
    eventually(lambda: other.locator("#attack").input_value() == "pgd-20")
    model = visit(WIDTHS + "#attack=pgd-20&width=1&lambda=0.2")
    assert model.locator("#at-lambda").inner_text() == "0.2"
    assert model.locator("#attack").input_value() == "pgd-20"
    assert model.locator("#width").input_value() == "1"


@pytest.mark.parametrize("path", ["index.html", BOARD, MODEL])
def test_every_button_and_box_can_be_used(visit, path):
    """`visit` fails where any of them asks for something outside the site."""
    page = visit(path)
    for control in page.locator("button:visible, [type=checkbox]:visible").all():
        control.click()
    for mark in page.locator("#chart .mark:visible").all()[:8]:
        mark.dispatch_event("click")
    assert page.locator("[href*='plotly'], .modebar").count() == 0


def test_rows_are_cards_on_a_phone(visit):
    page = visit(BOARD, viewport=PHONE)
    for cell in page.locator("#models tbody tr").first.locator("th, td").all():
        box = cell.bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= PHONE["width"]
    heads = page.locator("#models tbody td").evaluate_all("cells => cells.map(c => c.dataset.head)")
    assert all(heads)


# --- hostile entries


def test_a_hostile_entry_is_text_everywhere(visit, site_folder, hostile):
    page = visit(BOARD)
    drawn(page)
    assert page.evaluate("typeof pwned") == "undefined"
    links = page.locator("#models th a").all_inner_texts()
    assert hostile in " ".join(links)
    legend = [text.strip() for text in page.locator("#chart .legend li").all_text_contents()]
    assert any(text.startswith("<b>bold</b></script><script>pwned") for text in legend)
    page.locator("#models th a", has_text="<script>").click()
    assert page.locator("h1").inner_text() == hostile
    drawn(page)
    # what is copied is what is seen
    command = page.locator("#command").inner_text()
    assert command.startswith("<b>bold</b></script><script>")
    assert command.isprintable()
    assert page.evaluate("typeof pwned") == "undefined"
    assert page.locator("a[href^=javascript]").count() == 0

"""The site as its readers meet it, in Chromium: what moves, what is said, what is asked for."""

import json
import os
import re
import shutil
import time
import warnings
from collections.abc import Iterator

import numpy as np
import pytest

from oat_bench.statistics.frontier import robustness_at

pytestmark = pytest.mark.slow
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
BOARD, MODEL = "digits-Linf-0.375/index.html", "digits-Linf-0.375/oat-wrn-10-1.html"
WIDTHS = "digits-Linf-0.375/oats-wrn-10-1.html"
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}


def no_browser(reason: str) -> None:
    """Skip so that it is seen; where everything must run, fail."""
    message = f"NO BROWSER, THE SITE WAS NOT TESTED IN ONE: {reason}"
    if os.environ.get("CI"):
        pytest.fail(message)
    warnings.warn(message, stacklevel=2)
    pytest.skip(message)


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        no_browser("playwright is not installed; pip install 'oat-bench[test]'")
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    path = next((found for name in names if (found := shutil.which(name))), None)
    if path is None:
        no_browser("there is no Chromium; apt-get install chromium")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield started
        started.close()


@pytest.fixture
def visit(browser, site_folder):
    """Open a page of the site; when the test is over, nothing may have gone wrong on it."""
    contexts, requests, complaints = [], [], []

    def visit(path, *, viewport=DESKTOP, **options):
        context = browser.new_context(viewport=viewport, **options)
        contexts.append(context)
        context.set_default_timeout(15_000)
        context.on("request", lambda request: requests.append(request.url))
        context.route(re.compile("^(https?|wss?):"), lambda route: route.abort())
        page = context.new_page()
        page.on("console", lambda m: complaints.append(m.text) if m.type != "log" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: (complaints.append(dialog.message), dialog.dismiss()))
        path, _, chosen = path.partition("#")
        page.goto((site_folder / path).as_uri() + (f"#{chosen}" if chosen else ""))
        return page

    yield visit
    for context in contexts:
        context.close()
    root = site_folder.as_uri()
    assert complaints == []
    assert [url for url in requests if not url.startswith((f"{root}/", "data:", "blob:"))] == []


@pytest.fixture(scope="module")
def entry(leaderboards_folder):
    return json.loads((leaderboards_folder / "digits/Linf/oat-wrn-10-1.json").read_text())


def drawn(page):
    """Wait until the chart is drawn."""
    page.locator("#chart").scroll_into_view_if_needed()
    page.wait_for_selector("#chart .view:visible .mark .symbol")


def eventually(true, seconds=15):
    """Wait until something is true; the pages' policy leaves no way to wait in them."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


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


# --- the slider


def marker(page):
    """Return where the marker is, as SA and RA."""
    says = page.locator("#chart .view:visible .mark.here title").text_content()
    return [float(re.search(rf"{what} ([\d.]+) \[", says)[1]) for what in ("SA", "RA")]


def check_at(page, point):
    """Check that every part of the page is at an operating point."""
    ra = point["worst_case_acc"]["value"]
    assert page.locator("#at-lambda").inner_text() == f"{point['lam']:g}"
    assert page.locator("#at-sa").inner_text().startswith(f"{point['clean_acc']:.1f}")
    assert page.locator("#at-ra").inner_text().startswith(f"{ra:.1f}")
    text = page.locator("#lambda").get_attribute("aria-valuetext")
    assert text == f"lambda {point['lam']:g}: SA {point['clean_acc']:.1f}, RA {ra:.1f}"
    assert marker(page) == [float(f"{value:.1f}") for value in (point["clean_acc"], ra)]
    assert page.locator("tr[aria-current] th").inner_text() == f"{point['lam']:g}"
    assert page.locator("#examples-at").inner_text() == f"at lambda {point['lam']:g}"


def test_keys_move_the_slider_along_the_operating_points(visit, entry):
    page = visit(MODEL)
    drawn(page)
    points = entry["operating_points"]
    check_at(page, points[0])
    page.locator("#lambda").focus()
    before = page.locator("#examples .attacked").first.get_attribute("src")
    for point in points[1:]:
        page.keyboard.press("ArrowRight")
        check_at(page, point)
        after = page.locator("#examples .attacked").first.get_attribute("src")
        assert after != before
        before = after
    page.keyboard.press("ArrowRight")
    check_at(page, points[-1])
    page.keyboard.press("Home")
    check_at(page, points[0])
    page.keyboard.press("End")
    check_at(page, points[-1])


def test_the_mouse_moves_the_slider_and_it_snaps(visit, entry):
    page = visit(MODEL)
    drawn(page)
    page.locator("#lambda").scroll_into_view_if_needed()
    box = page.locator("#lambda").bounding_box()
    y = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + 8, y)
    page.mouse.down()
    # a little past the third of six stops
    page.mouse.move(box["x"] + 8 + (box["width"] - 16) * 0.43, y, steps=5)
    check_at(page, entry["operating_points"][2])
    page.mouse.move(box["x"] + box["width"], y, steps=5)
    page.mouse.up()
    check_at(page, entry["operating_points"][-1])


def test_predictions_are_those_of_the_lambda(visit):
    page = visit(MODEL)
    data = json.loads(page.locator("#data").text_content())
    page.locator("#lambda").focus()
    page.keyboard.press("End")
    cards = page.locator("#examples li").all()
    assert len(cards) == 8
    for card, (image, clean, attacked) in zip(
        cards, data["widths"][0]["examples"][-1], strict=True
    ):
        label = card.locator("dl").get_attribute("data-label")
        assert card.locator(".attacked").get_attribute("src") == image
        for name, says in (("clean", clean), ("attacked", attacked)):
            cell = card.locator(f"[data-says={name}]")
            assert cell.inner_text() == says
            assert cell.get_attribute("class") == ("right" if says == label else "wrong")


def test_a_click_on_the_frontier_moves_the_slider(visit, entry):
    page = visit(MODEL)
    drawn(page)
    page.locator("#chart .curve[data-curve=worst] .mark .ring").last.click(force=True)
    eventually(lambda: page.locator("#at-lambda").inner_text() == "1")
    check_at(page, entry["operating_points"][-1])


def test_another_width_keeps_the_lambda(visit):
    page = visit(WIDTHS)
    drawn(page)
    page.locator("#lambda").focus()
    page.keyboard.press("ArrowRight")
    page.locator("#width").select_option(index=1)
    assert page.locator("#at-lambda").inner_text() == "0.1"
    assert page.locator("tr[aria-current]").count() == 1
    assert page.locator("table[data-width='1'] tr[aria-current] th").inner_text() == "0.1"
    assert page.locator("#examples-at").inner_text() == "at lambda 0.1, width 0.75"


def test_the_command_is_copied(visit, entry):
    page = visit(MODEL)
    page.get_by_role("button", name="Copy").click()
    page.get_by_role("button", name="Copied").wait_for()
    page.evaluate(
        """() => {
            document.body.prepend(document.createElement("textarea"));
            document.querySelector("textarea").focus();
        }"""
    )
    page.keyboard.press("Control+V")
    assert page.locator("textarea").input_value() == entry["command"]


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

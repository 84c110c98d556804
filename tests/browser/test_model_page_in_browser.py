"""The page of a model in Chromium: the slider, and all that follows it."""

import json
import re

import pytest
from visits import MODEL, WIDTHS, drawn, eventually

pytestmark = pytest.mark.slow


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

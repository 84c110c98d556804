"""What tests of the site in a browser share."""

import time

BOARD, MODEL = "digits-Linf-0.375/index.html", "digits-Linf-0.375/oat-wrn-10-1.html"
WIDTHS = "digits-Linf-0.375/oats-wrn-10-1.html"
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}


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

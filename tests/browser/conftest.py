"""The browser, and its visits to the site, that fail where anything goes wrong on a page."""

import json
import os
import re
import shutil
import warnings
from collections.abc import Iterator

import pytest

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
DESKTOP = {"width": 1280, "height": 900}


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

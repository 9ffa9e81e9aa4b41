"""A real Chromium that opens the labelling page of a Label Studio server, as an annotator would."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.tools.label_studio import Server

#: No call home, no sandbox (which needs a user of its own in containers), no GPU.
ARGUMENTS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def executable() -> str | None:
    """Where Chromium is, or None."""
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@contextmanager
def signed_in(server: Server) -> Iterator[Any]:
    """A page (of playwright) of a browser that is signed in to the server."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable(), args=list(ARGUMENTS))
        try:
            page = browser.new_page(viewport={"width": 1600, "height": 1000})
            # Nothing but the server is asked for anything: the page works offline, and does not wait for the world.
            page.route(lambda url: not url.startswith((server.url, "data:", "blob:")), lambda route: route.abort())
            page.goto(f"{server.url}/user/login/")
            page.fill("input[name=email]", server.user[0])
            page.fill("input[name=password]", server.user[1])
            page.press("input[name=password]", "Enter")
            page.wait_for_url(lambda url: "/user/login" not in url, wait_until="domcontentloaded")
            yield page
        finally:
            browser.close()

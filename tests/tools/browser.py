"""A real Chromium that opens the labelling page of a Label Studio server, as an annotator would."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.browser import FLAGS, executable
from tests.tools.label_studio import Server

ARGUMENTS = (
    "--headless",
    *FLAGS,
    # Nothing but this machine is asked for anything.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)


@contextmanager
def signed_in(server: Server) -> Iterator[Any]:
    """A browser context (of playwright) that is signed in to the server; each page opened in it is a tab."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable(), args=list(ARGUMENTS))
        try:
            context = browser.new_context(viewport={"width": 1600, "height": 1000})
            page = context.new_page()
            page.goto(f"{server.url}/user/login/")
            page.fill("input[name=email]", server.user[0])
            page.fill("input[name=password]", server.user[1])
            page.press("input[name=password]", "Enter")
            page.wait_for_url(lambda url: "/user/login" not in url, wait_until="domcontentloaded")
            page.close()
            yield context
        finally:
            browser.close()

"""Take the screenshot of `alexnet ui` that README shows, docs/images/page.png.

    python docs/screenshot.py demo/model_repository

Needs Chromium (`apt-get install chromium`) and the [ui] and [embedded] extras.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from threading import Thread

from playwright.sync_api import sync_playwright

from alexnet_clients import Client, PageServer
from alexnet_serving import EmbeddedServer

FILE = Path(__file__).parent / "images" / "page.png"


def main(repository: Path) -> None:
    """Serve a repository and its page, classify the page's first example, and take the screenshot."""
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
    with (
        EmbeddedServer(repository) as server,
        Client(server.grpc_url) as client,
        PageServer(client, port=0) as served,
        sync_playwright() as playwright,
    ):
        Thread(target=served.run, daemon=True).start()
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=sandbox)
        page = browser.new_page(viewport={"width": 1100, "height": 740})
        page.goto(served.url)
        # The first request includes what runs only once; the second is what a user sees.
        for example in (1, 0):
            page.locator("button.gallery-item").nth(example).click()
            page.wait_for_selector("#classes meter")
            page.wait_for_timeout(3000)
        page.mouse.move(0, 0)
        page.wait_for_timeout(1000)  # animations
        FILE.parent.mkdir(exist_ok=True)
        page.screenshot(path=FILE)
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""The widget in marimo, in Chromium: it shows, selects and scrolls. `make python-heavy` runs this."""

import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

pytestmark = pytest.mark.heavy
pytest.importorskip("marimo")
playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = next((p for p in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if p), None)

NOTEBOOK = """import marimo
app = marimo.App(width="full")

@app.cell
def _():
    import attnscope as at
    at.show(at.open({path!r}), height=360)
    return
"""


@pytest.fixture(scope="module")
def address(smollm2, tmp_path_factory):
    """A running notebook of one cell."""
    if not CHROMIUM:
        pytest.skip("there is no Chromium (apt-get install chromium)")
    folder = tmp_path_factory.mktemp("marimo")
    (folder / "show.py").write_text(NOTEBOOK.format(path=str(smollm2)))
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    command = [sys.executable, "-m", "marimo", "run", str(folder / "show.py"), "--headless", "--no-token", "--port", str(port), "--host", "127.0.0.1"]
    with open(folder / "log", "w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        for _ in range(300):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=2).read()
                break
            except OSError:
                assert server.poll() is None, (folder / "log").read_text()
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/"
    finally:
        server.terminate()
        server.wait(30)


def test_the_viewer_in_a_cell(address, run, full):
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        page.set_default_timeout(120_000)
        page.goto(address)
        view = page.locator(".attnscope").first
        view.locator(".text-place[data-ready]:not([data-ready=''])").wait_for(timeout=120_000)
        assert "Lisbon" in view.locator(".pane-text").inner_text()
        side = view.locator(".side")

        def shown():
            return int(re.search(r"token (\d+)", side.inner_text())[1])

        view.locator(".pane-text span").nth(12).click()
        page.mouse.move(1, 1)
        for _ in range(100):
            if shown() != len(run) - 1:
                break
            page.wait_for_timeout(100)
        token = shown()
        assert token != len(run) - 1
        page.wait_for_timeout(500)
        share = float(side.locator(".first-share").inner_text().rstrip("%"))
        assert share == pytest.approx(100 * full[token, :, :, 0].mean(), abs=0.06)
        side.hover()
        page.mouse.wheel(0, 200)
        page.wait_for_timeout(500)
        assert side.evaluate("(e) => e.scrollTop") > 0
        for name in ("Heads", "Matrix", "Health"):
            view.locator("nav button", has_text=name).click()
            view.locator(f"main[data-view={name.lower()}]").wait_for()
            page.wait_for_timeout(1500)
            assert view.locator(".failure").count() == 0
        browser.close()

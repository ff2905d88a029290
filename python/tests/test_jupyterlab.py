"""The widget in JupyterLab, in Chromium: it shows, selects and scrolls. `make python-heavy` runs this."""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import numpy as np
import pytest

pytestmark = pytest.mark.heavy
nbformat = pytest.importorskip("nbformat")
pytest.importorskip("jupyterlab")
playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = next((p for p in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if p), None)


@pytest.fixture(scope="module")
def lab(smollm2, tmp_path_factory):
    """A notebook with one cell, in a running JupyterLab: its address."""
    if not CHROMIUM:
        pytest.skip("there is no Chromium (apt-get install chromium)")
    folder = tmp_path_factory.mktemp("lab")
    cell = f"import attnscope as at\nat.show(at.open({str(smollm2)!r}), height=360)"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell)])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, folder / "show.ipynb")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    environment = {**os.environ, "JUPYTER_CONFIG_DIR": str(folder / "config"), "JUPYTER_DATA_DIR": str(folder / "data"),
                   "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"), "JUPYTERLAB_WORKSPACES_DIR": str(folder / "workspaces")}
    command = [sys.executable, "-m", "jupyter", "lab", "--no-browser", f"--port={port}", "--ip=127.0.0.1", "--IdentityProvider.token=",
               f"--ServerApp.root_dir={folder}", "--allow-root", "--LabApp.news_url=", "--ServerApp.log_level=ERROR"]
    with open(folder / "log", "w") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(300):
            try:
                urllib.request.urlopen(f"{address}/api", timeout=2).read()
                break
            except OSError:
                assert server.poll() is None, (folder / "log").read_text()
                time.sleep(0.2)
        yield f"{address}/lab/tree/show.ipynb"
    finally:
        server.terminate()
        server.wait(30)


def test_the_viewer_in_a_cell(lab, run, full, tmp_path_factory):
    pictures = os.environ.get("ATTNSCOPE_PICTURES") or str(tmp_path_factory.mktemp("pictures"))
    asked = []
    elsewhere = []
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        page.set_default_timeout(120_000)
        # Binary messages of the kernel's socket are what the viewer was answered with.
        page.on("websocket", lambda socket: socket.on("framereceived", lambda frame: asked.append(len(frame))))
        page.on("request", lambda r: "127.0.0.1" in r.url or r.url.startswith(("data:", "blob:")) or elsewhere.append(r.url))
        page.goto(lab)
        cell = page.locator(".jp-CodeCell .jp-InputArea-editor").first
        cell.wait_for(timeout=60_000)
        # Before the kernel is there JupyterLab does not run the cell.
        page.locator("#jp-main-statusbar").get_by_text("| Idle").wait_for(timeout=60_000)
        cell.click()
        page.keyboard.press("Shift+Enter")
        view = page.locator(".jp-OutputArea .attnscope")
        view.locator(".text-place[data-ready]:not([data-ready=''])").wait_for(timeout=90_000)
        assert "Lisbon" in view.locator(".pane-text").inner_text()
        page.screenshot(path=f"{pictures}/jupyterlab-text.png")

        # Selects: a click on a word makes it the token whose row is shown, and the numbers are the recording's.
        side = view.locator(".side")
        view.locator(".pane-text span").nth(12).click()
        page.mouse.move(1, 1)  # away: hovering shows, too

        def shown():
            return int(re.search(r"token (\d+)", side.inner_text())[1])

        last = len(run) - 1
        for _ in range(100):
            if shown() != last:
                break
            page.wait_for_timeout(100)
        token = shown()
        assert token != last
        side.locator(".first-share").wait_for()
        page.wait_for_timeout(500)
        share = float(side.locator(".first-share").inner_text().rstrip("%"))
        assert share == pytest.approx(100 * full[token, :, :, 0].mean(), abs=0.06)
        page.keyboard.press("ArrowRight")
        page.wait_for_timeout(500)
        assert shown() == token + 1
        page.screenshot(path=f"{pictures}/jupyterlab-selected.png")

        # Scrolls: what does not fit moves under the wheel.
        side.hover()
        page.mouse.wheel(0, 200)
        page.wait_for_timeout(500)
        assert side.evaluate("(e) => e.scrollTop") > 0

        # It asks for what it shows: so far, with the viewer itself, less than half of the recording's rows.
        assert sum(asked) < np.prod(run.shape) * 4 / 2
        for name in ("Heads", "Matrix", "Health"):
            view.locator("nav button", has_text=name).click()
            view.locator(f"main[data-view={name.lower()}]").wait_for()
            page.wait_for_timeout(1500)
            assert view.locator(".failure").count() == 0
            page.screenshot(path=f"{pictures}/jupyterlab-{name.lower()}.png")
        browser.close()
    assert not elsewhere, elsewhere

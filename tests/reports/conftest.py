"""Shared by the tests of reports: pages of all kinds of runs, a browser, and the checkers that come from npm."""

from __future__ import annotations

import functools
import shutil
import subprocess
import time
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def page_of(make_run):
    """Return the page of a run of a kind; rendered once."""
    from ftdoctor_reports import html

    return functools.cache(lambda kind: html.render(make_run(kind)))


@pytest.fixture(scope="session")
def browser():
    """A headless Chromium that keeps its log."""
    driver = shutil.which("chromedriver") if shutil.which("chromium") else None
    if not driver:
        pytest.skip("needs chromium and chromedriver")
    webdriver = pytest.importorskip("selenium.webdriver")
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--window-size=1200,900"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    started = webdriver.Chrome(options=options, service=Service(driver))
    yield started
    started.quit()


@pytest.fixture
def opened(browser, tmp_path):
    """Open a page from a file as a screen of some width shows it; nothing may be refused or go wrong on it."""

    def visit(page, place="", width=1200, dark=False):
        path = tmp_path / "page.html"
        path.write_text(page, encoding="utf-8")
        screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        still = {"name": "prefers-reduced-motion", "value": "reduce"}
        browser.get("about:blank")
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme, still]})
        browser.get(path.as_uri() + place)
        return browser

    yield visit
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert browser.get_log("browser") == []


@pytest.fixture(scope="session")
def checkers(tmp_path_factory, worker_id):
    """The folder of the packages of npm that check pages, installed once a session and shared by its workers."""
    npm = shutil.which("npm")
    if not npm:
        pytest.skip("needs npm")
    shared = tmp_path_factory.getbasetemp() if worker_id == "master" else tmp_path_factory.getbasetemp().parent
    folder = shared / "checkers"
    try:
        folder.mkdir()
    except FileExistsError:  # another worker installs, or has installed
        _until((folder / "done").exists)
    else:
        shutil.copy(HERE / "package.json", folder)
        command = [npm, "install", "--no-audit", "--no-fund", "--no-package-lock"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        (folder / "done").write_text("" if done.returncode == 0 else done.stderr)
    if told := (folder / "done").read_text():
        pytest.skip(f"npm could not install what checks pages: {told[:300]}")
    return folder / "node_modules"


def _until(condition, seconds=300):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError("another test process did not finish to install the checkers")
        time.sleep(0.2)

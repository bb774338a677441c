"""What the page of a very large run costs: 2,000 cells rendered, opened in Chromium and filtered.

    python tests/benchmarks/report.py

Prints the best of three; each target is a second. Without Chromium and selenium only the rendering is measured.
"""

from __future__ import annotations

import importlib.util
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from ftdoctor_reports import html

CELLS, ROUNDS, TARGET = 2000, 3, 1.0
FILTER = """
const find = document.getElementById("find");
const begun = performance.now();
find.value = arguments[0];
find.dispatchEvent(new Event("input", {bubbles: true}));
document.body.getBoundingClientRect();
return performance.now() - begun;
"""


def main() -> None:
    """Print a line for each measurement, and fail where one misses its target."""
    runs = load()
    seconds = {}
    for number in (500, CELLS):
        run = runs.many(number)
        seconds[f"rendering {number} cells"] = min(timed(lambda run=run: html.render(run)) for _ in range(ROUNDS))
        page = html.render(run)
        print(
            f"page of {number} cells: {len(page.encode()) / 1e6:.2f} MB, {sum(len(r.checks) for r in run.results)} checks"
        )
    seconds |= opened(page)
    for label, spent in seconds.items():
        print(f"{label:28} {spent:.2f} s (target: under {TARGET:g} s)")
    sys.exit(0 if max(seconds.values()) < TARGET else 1)


def load() -> Any:
    """Return the module that makes the runs of the tests."""
    spec = importlib.util.spec_from_file_location("report_runs", Path(__file__).parents[1] / "reports" / "runs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def timed(action: Any) -> float:
    """Return the seconds that an action takes."""
    begun = time.perf_counter()
    action()
    return time.perf_counter() - begun


def opened(page: str) -> dict[str, float]:
    """Return the seconds until the page answers in Chromium, and until it has filtered; nothing without Chromium."""
    if not shutil.which("chromium") or not importlib.util.find_spec("selenium"):
        print("no Chromium or no selenium: the page is not opened")
        return {}
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run"):
        options.add_argument(argument)
    browser = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "report.html")
        path.write_text(page, encoding="utf-8")
        for _ in range(ROUNDS):
            browser.get("about:blank")
            browser.get(path.as_uri())
            ready = browser.execute_script("return performance.getEntriesByName('ready')[0].startTime")
            found.setdefault("interactive after", []).append(ready / 1000)
            found.setdefault("first filter by text", []).append(browser.execute_script(FILTER, "bfloat16") / 1000)
            found.setdefault("next filter by text", []).append(browser.execute_script(FILTER, "lora_head") / 1000)
    browser.quit()
    return {label: min(times) for label, times in found.items()}


if __name__ == "__main__":
    main()

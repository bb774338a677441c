"""Photographs a part of a page in Chromium.

    page=report.html folder=docs/pictures
    python docs/pictures/photograph.py $page $folder/report.png --height 1180 --open '#finding-1 details'
    python docs/pictures/photograph.py $page $folder/report-matrix.png --height 860 \\
        --dark --part '#matrix' --place '#?columns=quantization'

Needs chromium, chromedriver and selenium.
"""

from __future__ import annotations

import argparse
import base64
import shutil
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.chrome.service import Service

PLACE = "const r = document.querySelector(arguments[0]).getBoundingClientRect(); return [r.x + scrollX, r.y + scrollY]"


def main() -> None:
    """Open the page and save the picture."""
    asked = arguments()
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars"):
        options.add_argument(argument)
    browser = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    screen = {"width": asked.width, "height": asked.height, "deviceScaleFactor": 1, "mobile": False}
    scheme = {"name": "prefers-color-scheme", "value": "dark" if asked.dark else "light"}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
    browser.get(asked.page.resolve().as_uri() + asked.place)
    if asked.open:
        browser.execute_script("document.querySelector(arguments[0]).open = true", asked.open)
    top = browser.execute_script(PLACE, asked.part)[1] if asked.part else 0
    clip = {"x": 0, "y": max(0, top - 16), "width": asked.width, "height": asked.height, "scale": 1}
    shot = browser.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip})
    asked.target.write_bytes(base64.b64decode(shot["data"]))
    browser.quit()


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--width", type=int, default=1160)
    parser.add_argument("--height", type=int, default=900)
    parser.add_argument("--part", default="", help="selector of the element at which the picture begins")
    parser.add_argument("--place", default="", help="what stands behind the address of the page, such as #matrix")
    parser.add_argument("--open", default="", help="selector of a part that is unfolded")
    parser.add_argument("--dark", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()

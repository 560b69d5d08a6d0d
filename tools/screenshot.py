"""Picture of a report for the README: one benchmark, the pointer on the function that grew.

Usage: screenshot.py REPORT_HTML PNG FUNCTION, as in
`tools/screenshot.py build/demo/report-fail/report.html docs/images/demo.png match`.
"""

import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

WIDTH, HEIGHT = 1400, 760


def main(arguments: list[str]) -> None:
    """Open the report, point at the widest box of the function, write the picture."""
    if len(arguments) != 3:  # noqa: PLR2004 - the three words of the usage line
        raise SystemExit(__doc__)
    report, picture, function = arguments
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium") or shutil.which("google-chrome"),
            args=["--no-sandbox"],
        )
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        page.goto(Path(report).resolve().as_uri())
        boxes = page.get_by_text(function, exact=True).all()
        widest = max(boxes, key=lambda box: (box.bounding_box() or {"width": 0})["width"])
        widest.hover()
        page.wait_for_timeout(300)
        page.screenshot(path=picture)
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1:])

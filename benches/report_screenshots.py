"""Pictures of a report's page at several widths, light and dark, in headless Chromium; an error if the page
asks for anything, says anything on the console, is wider than the window, or does not sort.

Needs `pip install playwright`, and `playwright install chromium` or a Chromium named by --chromium.

    cargo test --test report
    python3 benches/report_screenshots.py target/tmp/report/index.html target/screenshots
"""

import argparse
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

WIDTHS = [1280, 390]

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("page", type=Path, help="index.html of a report")
parser.add_argument("output", type=Path, help="folder for the pictures")
parser.add_argument("--chromium", help="executable, where playwright has none of its own")
arguments = parser.parse_args()
arguments.output.mkdir(parents=True, exist_ok=True)
address = arguments.page.resolve().as_uri()
problems = []


def column(page, number):
    """Texts of a column of the table of linears."""
    return page.eval_on_selector_all(
        f"section[aria-labelledby=linears] > div tbody tr > :nth-child({number})",
        "cells => cells.map(cell => cell.dataset.value ?? cell.textContent)",
    )


def check_sorting(page):
    """Every head sorts both ways, numbers as numbers, and the rows stay the same."""
    heads = page.locator("section[aria-labelledby=linears] > div thead button")
    for index in range(heads.count()):
        before = column(page, index + 1)
        for _ in range(2):
            heads.nth(index).click()
            order = page.eval_on_selector_all(
                "section[aria-labelledby=linears] > div thead th", "heads => heads.map(head => head.ariaSort)"
            )
            cells = column(page, index + 1)
            if sorted(cells) != sorted(before):
                problems.append(f"column {index + 1}: sorting changed the rows")
            numbers = heads.nth(index).evaluate("button => button.parentElement.classList.contains('number')")
            if numbers:
                known = [float(cell) for cell in cells if cell != "–"]
                down = order[index] == "descending"
                if known != sorted(known, reverse=down) or "–" in cells[: len(known)]:
                    problems.append(f"column {index + 1}: not sorted, {order[index]}: {cells[:5]}")
            if [o for o in order if o] != [order[index]]:
                problems.append(f"column {index + 1}: heads say {order}")


with sync_playwright() as playwright:
    browser = playwright.chromium.launch(executable_path=arguments.chromium)
    for scheme in ["light", "dark"]:
        for width in WIDTHS:
            context = browser.new_context(
                viewport={"width": width, "height": 900},
                color_scheme=scheme,
                is_mobile=width < 600,
                device_scale_factor=2 if width < 600 else 1,
            )
            page = context.new_page()
            page.on("request", lambda r: r.url in (address, "data:,") or problems.append(f"request: {r.url}"))
            page.on("console", lambda message: problems.append(f"console: {message.text}"))
            page.on("pageerror", lambda error: problems.append(f"error: {error}"))
            page.goto(address)
            for summary in page.locator("summary").all():
                summary.click()
            wide = page.evaluate("document.documentElement.scrollWidth")
            if wide > width:
                problems.append(f"{width}: the page is {wide} wide")
            page.screenshot(path=arguments.output / f"{width}-{scheme}.png", full_page=True)
            check_sorting(page)
            context.close()
    browser.close()

print("\n".join(problems) or "nothing was asked for, nothing was said, everything sorts")
sys.exit(bool(problems))

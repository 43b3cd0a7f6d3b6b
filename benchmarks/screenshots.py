"""Screenshots of the page of a run and of that of a comparison, on a desktop and on a phone.

    python benchmarks/screenshots.py RUN/report.html SWEEP/pareto-analysis/pareto.html [--out docs]

Needs Chromium. A phone is a frame of its width in a page, because a window of headless Chromium is not that narrow.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import grid
from PIL import Image

DESKTOP, PHONE = (960, 1020), (390, 1010)
"""Width and height of a screen in pixels."""

SHOWN = 760
"""The largest width of a picture: larger ones are made smaller."""

WINDOW = 1200
"""A side of the window that a phone's frame is in."""

COLOURS = 128
"""Colours of a picture, so that its file is small."""

SCHEMES = {"light": 1, "dark": 0}
"""A colour scheme → its number in Chromium's settings."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="report.html of a run")
    parser.add_argument("comparison", type=Path, help="pareto.html of a comparison")
    parser.add_argument("--out", type=Path, default=grid.ROOT / "docs", help="where the pictures go (docs)")
    options = parser.parse_args()
    for page in (options.run, options.comparison):
        if not page.is_file():
            parser.error(f"{page} is no file; give the report.html of a run and the pareto.html of a comparison.")
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        sys.exit("No Chromium was found: install it, or put it on the PATH as chromium.")
    for name, page in (("run", options.run), ("pareto", options.comparison)):
        for suffix, size, scheme in (("", DESKTOP, "light"), ("-phone", PHONE, "dark")):
            out = options.out / f"page-{name}{suffix}.png"
            photograph(browser, page, size, scheme, out)
            print(f"{out}, {out.stat().st_size / 1024:.0f} KiB, of a page of {page.stat().st_size / 1e6:.1f} MB", flush=True)


def photograph(browser: str, page: Path, size: tuple[int, int], scheme: str, out: Path) -> None:
    """Write a picture of the top of a page."""
    with tempfile.TemporaryDirectory() as folder:
        frame, shot = Path(folder) / "frame.html", Path(folder) / "shot.png"
        address = page.resolve().as_uri()
        frame.write_text(
            f'<body style="margin: 0"><iframe src="{address}" width="{size[0]}" height="{size[1]}" style="border: 0"></iframe>'
        )
        command = [browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"]
        command += [f"--window-size={WINDOW},{WINDOW}", f"--blink-settings=preferredColorScheme={SCHEMES[scheme]}"]
        command += ["--virtual-time-budget=20000", f"--screenshot={shot}", frame.as_uri()]
        subprocess.run(command, check=True, capture_output=True, timeout=120)
        with Image.open(shot) as image:
            part = image.crop((0, 0, *size)).convert("RGB")
            part.thumbnail((SHOWN, WINDOW), Image.Resampling.LANCZOS)
            part.quantize(COLOURS).save(out, optimize=True)


if __name__ == "__main__":
    main()

"""Screenshots of the built site, at the width of a desktop and of a phone.

    python docs/screenshots.py docs/_build/html FOLDER

Needs Chromium (Debian: ``apt-get install chromium``).
"""

import shutil
import subprocess
import sys
from pathlib import Path

PAGES = (
    "index.html",
    "getting_started.html",
    "user_guide/choosing.html",
    "user_guide/likelihoods.html",
    "auto_examples/index.html",
    "auto_examples/densities/plot_likelihood_repairs.html",
    "generated/methods.html",
    "generated/benchmarks.html",
    "user_guide/index.html",
    "generated/api.html",
    "generated/skood.posthoc.ODIN.html",
)
# The narrowest window that a headless Chromium opens is 500 wide.
WIDTHS = {"desk": 1280, "phone": 500}


def main() -> None:
    site, folder = (Path(argument).resolve() for argument in sys.argv[1:3])
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        sys.exit("no Chromium found; install it first")
    folder.mkdir(parents=True, exist_ok=True)
    for page in PAGES:
        for name, width in WIDTHS.items():
            picture = folder / f"{page.removesuffix('.html').replace('/', '-')}-{name}.png"
            command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
            command += [f"--window-size={width},1800", f"--screenshot={picture}"]
            # MathJax needs time to draw the formulas.
            command += ["--virtual-time-budget=8000"]
            subprocess.run([*command, (site / page).as_uri()], check=True, capture_output=True)
            print(picture)


if __name__ == "__main__":
    main()

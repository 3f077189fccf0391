"""Pages on a phone and on a desk. Truth: where Chromium puts things; the pages bring no script, the test adds one."""

import html
import re
import shutil
import subprocess

import pytest

from few_shot_nas.report import compare_arms, compare_runs, write_contrasts, write_report

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [pytest.mark.slow, pytest.mark.skipif(BROWSER is None, reason="no chromium")]
MEASURE = """<script>
const shown = e => e.getClientRects().length > 0;
const inside = e => e.getBoundingClientRect().right <= innerWidth && e.getBoundingClientRect().left >= 0;
const count = (selector, test) => [...document.querySelectorAll(selector)].filter(test).length;
parent.document.title = ["MEASURED", innerWidth, document.documentElement.scrollWidth,
  count("td[data-label=verdict]", inside), count(".wide", shown), count(".narrow", shown)].join(" ");
</script></body>"""


def measured(page, width):
    """Return what the script measured: window, document, verdicts inside, wide and narrow pictures that are shown."""
    frame = page.with_name(f"{page.stem}-{width}.html")  # a window itself is never narrower than 500 pixels
    inner = html.escape(page.read_text(encoding="utf-8").replace("</body>", MEASURE))
    style = f"width: {width}px; height: 1200px; border: 0"
    frame.write_text(f'<meta charset="utf-8"><iframe style="{style}" srcdoc="{inner}"></iframe>', encoding="utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=2000"]
    command = [BROWSER, *flags, f"--user-data-dir={page.parent / 'browser'}", "--dump-dom", frame.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return tuple(map(int, re.search(r"<title>MEASURED ([\d ]+)</title>", done.stdout)[1].split()))


@pytest.fixture
def pages(make_run, tmp_path):
    """One page of each kind, with a count of (verdicts, pictures in two widths)."""
    for arm, accuracy in (("maml", 0.6), ("maml_enas_with_a_long_name", 0.7)):
        for seed in (0, 1, 2):
            make_run(f"{arm}/{seed}", accuracy=accuracy, results={"seed": seed, "weights": f"{arm}{seed}"})
    arms = [str(tmp_path / arm) for arm in ("maml", "maml_enas_with_a_long_name")]
    runs = [make_run("search"), make_run("conv4", search=False)]
    return [
        (write_report(runs[0]), 0, 0),
        (compare_runs(runs, tmp_path / "runs.html"), 0, 2),
        (write_contrasts(compare_arms(arms, resamples=200), tmp_path / "arms.html"), 1, 1),
    ]


@pytest.mark.parametrize("width", [400, 1280])
def test_nothing_runs_over_the_edge_and_the_verdict_is_on_the_screen(pages, width):
    for page, verdicts, pictures in pages:
        window, document, inside, wide, narrow = measured(page, width)
        assert window == width and document <= width, page.name
        # The reference has a cell for a verdict too; a phone leaves it out, a desk shows it blank.
        assert inside >= verdicts, page.name
        assert (wide, narrow) == ((0, pictures) if width == 400 else (pictures, 0)), page.name

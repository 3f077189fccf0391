"""Pages on a phone and on a desk. Truth: where Chromium puts things; the pages bring no script, the test adds one."""

import html
import json
import re
import shutil
import subprocess
from types import SimpleNamespace

import pytest
from PIL import Image

from few_shot_nas.report import compare_arms, compare_runs, write_contrasts, write_report
from few_shot_nas.report.contact_sheet import write_contact_sheet

#: The smallest picture, one transparent pixel.
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
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


def long_names(run):
    """Give a run an example and scores of classes whose names have no place to break."""
    names = [f"n{number}_a_class_whose_name_is_longer_than_a_column_of_a_phone_has_room_for" for number in range(12)]
    pairs = [{"truth": names[0], "answer": names[1], "answered": 140, "queries": 1500}]
    scores = {"split": "test", "bn_mode": "support", "classes_left_out": 0, "pairs": pairs}
    scores["classes"] = [{"name": name, "right": 140, "queries": 1500} for name in names]
    (run / "classes.json").write_text(json.dumps(scores), encoding="utf-8")
    image = {"png": PIXEL, "label": 0}
    query = [image | {"predicted": label, "probability": 0.5} for label in (0, 1)]
    example = {"task_id": 0, "bn_mode": "support", "classes": names[:2], "right": 1, "queries": 2}
    example |= {"support": [image], "query": query, "split_classes": {"train": 64, "test": 20}}
    (run / "example.json").write_text(json.dumps(example), encoding="utf-8")


def contact_sheet(folder):
    """Write the page of two answers with long names."""
    files = [folder / f"a_picture_with_a_name_longer_than_its_tile_on_a_phone_{number}.png" for number in range(2)]
    for file in files:
        Image.new("RGB", (90, 20)).save(file)
    names = [f"a_class_whose_name_is_longer_than_a_tile_{number}" for number in range(2)]
    answers = SimpleNamespace(class_names=names, names=[file.name for file in files], probabilities=[[0.6, 0.4]] * 2)
    return write_contact_sheet(folder / "sheet.html", files, answers, {"model": "ProtoNet"})


@pytest.fixture
def pages(make_run, tmp_path):
    """One page of each kind, with a count of (verdicts, pictures in two widths)."""
    for arm, accuracy in (("maml", 0.6), ("maml_enas_with_a_long_name", 0.7)):
        for seed in (0, 1, 2):
            make_run(f"{arm}/{seed}", accuracy=accuracy, results={"seed": seed, "weights": f"{arm}{seed}"})
    arms = [str(tmp_path / arm) for arm in ("maml", "maml_enas_with_a_long_name")]
    runs = [make_run("search"), make_run("conv4", search=False)]
    long_names(runs[0])
    return [
        (write_report(runs[0]), 0, 0),
        (contact_sheet(tmp_path), 0, 0),
        (compare_runs(runs, tmp_path / "runs.html"), 0, 4),
        (write_contrasts(compare_arms(arms, resamples=200), tmp_path / "arms.html"), 1, 3),
    ]


@pytest.mark.parametrize("width", [400, 1280])
def test_nothing_runs_over_the_edge_and_the_verdict_is_on_the_screen(pages, width):
    for page, verdicts, pictures in pages:
        window, document, inside, wide, narrow = measured(page, width)
        assert window == width and document <= width, page.name
        # The reference has a cell for a verdict too; a phone leaves it out, a desk shows it blank.
        assert inside >= verdicts, page.name
        assert (wide, narrow) == ((0, pictures) if width == 400 else (pictures, 0)), page.name

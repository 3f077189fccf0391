"""The pages: complete, self-contained, escaped, and made from whatever a run has left. Truth: the run's own files."""

import html.parser
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from few_shot_nas.errors import InputError
from few_shot_nas.report import compare_runs, load_run, write_report
from few_shot_nas.report.pairing import paired_differences
from few_shot_nas.report.tables import percent, points, score
from few_shot_nas.spaces import SPACES

MakeRun = Callable[..., Path]
VOID = {"meta", "link", "img", "br", "hr", "input"}


class Page(html.parser.HTMLParser):
    """Collects tags, ids, headings and text, and refuses tags that are not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.headings: list[str] = []
        self.titles: list[str] = []
        self.words = ""
        self.feed(text)
        self.close()
        assert self.open == []
        self.ids = [attributes["id"] for _, attributes in self.tags if "id" in attributes]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)
        if self.open and self.open[-1] == "title":
            self.titles.append(data)
        self.words += data


def read(path: Path) -> Page:
    return Page(path.read_text(encoding="utf-8"))


def check_self_contained(path: Path) -> None:
    text, page = path.read_text(encoding="utf-8"), read(path)
    assert path.stat().st_size < 2_000_000
    assert "http://" not in text and "https://" not in text and "@import" not in text
    assert not {"script", "link", "iframe", "object", "embed", "img"} & {tag for tag, _ in page.tags}
    for tag, attributes in page.tags:
        for name, value in attributes.items():
            assert not name.startswith("on") and name not in ("src", "srcset")
            if name in ("href", "xlink:href"):
                assert value is not None and value.startswith("#") and value[1:] in page.ids, (tag, value)
    assert set(re.findall(r"url\(#([^)]*)\)", text)) <= set(page.ids)
    assert not re.findall(r"url\((?!#)", text)
    assert len(set(page.ids)) == len(page.ids)


def test_the_page_of_a_search_holds_everything_the_run_has(make_run: MakeRun) -> None:
    path = make_run()
    written = write_report(path)
    assert written == path / "report.html"
    check_self_contained(written)
    page, run = read(written), load_run(path)
    headings = ["Test", "Learning curves", "Architecture", "Controller", "Facts", "How to reproduce"]
    assert page.headings == headings
    for mode in ("transductive", "support"):
        assert percent(score(run, mode)) in page.words
    for text in (run.results["command"], "torch 2.11.0", "cpu: 2 cores", "31.3 k", "5.12 M", run.config_text.strip()):
        assert text in page.words
    assert {"Loss over meta-steps", "Accuracy over meta-steps"} < set(page.titles)
    assert {f"Histogram of episode accuracies, {mode}" for mode in ("transductive", "support")} < set(page.titles)
    assert {"Controller reward and baseline", "Controller entropy"} < set(page.titles)
    assert {"Architecture of run, normal cell", "Architecture of run, reduce cell"} < set(page.titles)
    assert run.genotype is not None
    assert all(edge.op in page.words for _, edges in run.genotype.edges for edge in edges)


def test_the_facts_of_a_search_hold_every_count_of_reward_calls(make_run: MakeRun) -> None:
    counts = {"reward_calls": 4321, "reward_calls_search": 4001, "reward_calls_validation": 765}
    words = read(write_report(make_run(results={"search": counts}))).words
    for label, count in (("Reward calls", 4321), ("Reward calls search", 4001), ("Reward calls validation", 765)):
        assert re.search(rf"{label}\s*{count}\b", words), label


def test_the_same_run_gives_the_same_bytes(make_run: MakeRun) -> None:
    path = make_run()
    assert write_report(path).read_bytes() == write_report(path).read_bytes()
    assert not list(path.glob("*.part"))


@pytest.mark.parametrize(
    ("omit", "missing"),
    [
        (("metrics.csv",), {"Learning curves", "Controller"}),
        (("genotype.json",), {"Architecture"}),
        (("metrics.csv", "episodes.csv", "genotype.json"), {"Learning curves", "Controller", "Architecture"}),
    ],
)
def test_sections_without_content_are_left_out(make_run: MakeRun, omit: tuple[str, ...], missing: set[str]) -> None:
    full = {"Test", "Learning curves", "Architecture", "Controller", "Facts", "How to reproduce"}
    assert set(read(write_report(make_run(omit=omit))).headings) == full - missing


def test_an_untested_run_still_has_a_page(make_run: MakeRun) -> None:
    page = read(write_report(make_run(omit=("episodes.csv",), results={"test": {}})))
    assert "Test" not in page.headings and "Learning curves" in page.headings


def test_a_run_that_validated_once_has_curves(make_run: MakeRun) -> None:
    path = make_run(search=False)
    (path / "metrics.csv").write_text("meta_step,val/accuracy,val/ci95\n5,0.5,0.02\n")
    page = read(write_report(path))
    assert "Accuracy over meta-steps" in page.titles and "Loss over meta-steps" not in page.titles


STEPS = tuple(f"val/accuracy_step{step}" for step in range(4))


@pytest.mark.parametrize(
    ("watched", "titles", "words"),
    [
        (("val/gap",), {"Gap to the training classes"}, ["train − validation accuracy"]),
        (("val/gap", "train/eval_accuracy"), {"Gap to the training classes"}, ["training classes", "same protocol"]),
        (STEPS, {"Accuracy by inner step"}, ["inner steps"]),
        ((*STEPS, "val/support_accuracy"), {"Accuracy by inner step"}, ["support set"]),
    ],
)
def test_what_validations_watched_is_drawn_where_it_was_recorded(
    make_run: MakeRun, watched: tuple[str, ...], titles: set[str], words: list[str]
) -> None:
    plain = read(write_report(make_run("plain", search=False)))
    written = write_report(make_run("watched", search=False, watched=watched))
    check_self_contained(written)
    page = read(written)
    assert set(page.titles) - set(plain.titles) == titles
    assert all(text in page.words and text not in plain.words for text in words)


def test_a_long_run_does_not_make_a_large_page(make_run: MakeRun) -> None:
    assert write_report(make_run(steps=200_000)).stat().st_size < 500_000


def test_what_a_user_typed_is_escaped(make_run: MakeRun) -> None:
    evil = '<script>alert("x")</script>&'
    path = make_run(config={"note": f"'{evil}'"}, results={"command": evil, "hardware": evil, "data_class": evil})
    for written in (write_report(path), compare_runs([path], path / "comparison.html")):
        assert "<script" not in written.read_text(encoding="utf-8")
        assert evil in read(written).words


def test_the_comparison_shows_every_run_and_every_pair(make_run: MakeRun, tmp_path: Path) -> None:
    paths = [make_run("a", accuracy=0.7), make_run("b", accuracy=0.66), make_run("c", search=False)]
    written = compare_runs(paths, tmp_path / "deep" / "er" / "report.html")
    check_self_contained(written)
    page, runs = read(written), [load_run(path) for path in paths]
    for mode in ("transductive", "support"):
        assert all(percent(score(run, mode)) in page.words for run in runs)
        for pair in paired_differences(runs, mode):
            assert points(pair.difference) in page.words
            assert points(pair.difference._replace(mean=-pair.difference.mean)) in page.words
    assert all(run.results["command"] in page.words for run in runs)
    assert "Architecture of a, b, normal cell" in page.titles


def test_the_comparison_draws_gaps_where_they_were_recorded(make_run: MakeRun, tmp_path: Path) -> None:
    plain, watched = make_run("plain", search=False), make_run("watched", search=False, watched=("val/gap",))
    assert "Gap of all runs" not in read(compare_runs([plain], tmp_path / "plain.html")).titles
    both = compare_runs([plain, watched], tmp_path / "both.html")
    check_self_contained(both)
    assert {"Validation accuracy of all runs", "Gap of all runs"} <= set(read(both).titles)


def test_other_tasks_are_compared_but_not_paired(make_run: MakeRun, tmp_path: Path) -> None:
    paths = [make_run("a"), make_run("b", results={"seed": 3})]
    assert "Paired differences" not in read(compare_runs(paths, tmp_path / "report.html")).headings
    paths.append(make_run("c"))
    page = read(compare_runs(paths, tmp_path / "report.html"))
    assert "Paired differences" in page.headings and page.words.count("other tasks") == 8


def test_different_architectures_do_not_share_ids(make_run: MakeRun, tmp_path: Path) -> None:
    paths = [make_run("a"), make_run("b")]
    genotype = json.loads((paths[1] / "genotype.json").read_text())
    genotype["channels"] = 8
    (paths[1] / "genotype.json").write_text(json.dumps(genotype))
    written = compare_runs(paths, tmp_path / "report.html")
    assert {"Architecture of a, normal cell", "Architecture of b, normal cell"} < set(read(written).titles)
    check_self_contained(written)


def test_comparing_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no run directory"):
        compare_runs([], tmp_path / "report.html")


def test_a_damaged_run_leaves_no_page(make_run: MakeRun, tmp_path: Path) -> None:
    paths = [make_run("a"), make_run("b", omit=("results.json",))]
    with pytest.raises(InputError, match=r"b/results\.json is missing"):
        compare_runs(paths, tmp_path / "out" / "report.html")
    assert not (tmp_path / "out").exists()


def test_the_candidates_of_a_search_stand_with_their_rewards(make_run: MakeRun) -> None:
    path = make_run()
    space = SPACES["darts_fewshot"](16, 2, 3)
    first = [0 for _ in space.decisions]
    listed = [{"decisions": first, "reward": 0.5, "ci95": 0.02}, {"decisions": first, "reward": None, "ci95": None}]
    results = json.loads((path / "results.json").read_text())
    (path / "results.json").write_text(json.dumps({**results, "search": {"reward_calls": 3, "candidates": listed}}))
    page = read(write_report(path))
    assert "Candidates" in page.headings and "50.0 ± 2.0" in page.words and "no number" in page.words
    edge = space.decode(first).edges[0][1][0]
    assert f"{edge.op} {edge.src}→{edge.dst}" in page.words
    # A reward that is a loss is no share of anything, in the table and along the curve.
    with (path / "config.yaml").open("a", encoding="utf-8") as file:
        file.write("reward: negative_query_loss\n")
    page = read(write_report(path))
    assert "0.500 ± 0.020" in page.words and "Reward: negative query loss." in page.words
    assert "reward (negative query loss)" in page.words
    (path / "results.json").write_text(json.dumps({**results, "search": {"candidates": [{"decisions": [0]}]}}))
    with pytest.raises(InputError, match=r"results\.json.*candidates"):
        write_report(path)

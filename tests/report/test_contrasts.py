"""Comparing arms task by task. Truth: scipy and plain numpy on the files as they were written."""

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from few_shot_nas.errors import InputError
from few_shot_nas.report import compare_arms, load_run, markdown
from few_shot_nas.report.contrasts import contrasts
from few_shot_nas.report.pairing import paired_differences
from few_shot_nas.stats.class_variance import class_interval
from training.compare import main

MakeRun = Callable[..., Path]


def scores(path: Path, mode: str = "transductive") -> np.ndarray:
    with open(path / "episodes.csv") as file:
        return np.array([float(row["accuracy"]) for row in csv.DictReader(file) if row["bn_mode"] == mode])


@pytest.fixture
def make_arm(make_run: MakeRun) -> Callable[..., str]:
    """Return a function that writes an arm of several seeds and gives its folder."""

    def make(name: str, seeds: tuple[int, ...] = (0, 1, 2), **changes: object) -> str:
        results = changes.pop("results", {})
        assert isinstance(results, dict)
        paths = [make_run(f"{name}/seed{seed}", results={"seed": seed, **results}, **changes) for seed in seeds]
        return str(paths[0].parent)

    return make


def test_one_seed_is_the_paired_t_test_in_percentage_points(make_run: MakeRun) -> None:
    one, other = make_run("one", accuracy=0.7), make_run("other", accuracy=0.66)
    (found,) = compare_arms([str(one), str(other)], resamples=2000).contrasts
    expected = stats.ttest_rel(100 * scores(other), 100 * scores(one))
    low, high = expected.confidence_interval(0.95)
    assert found.difference.mean == pytest.approx(100 * (scores(other) - scores(one)).mean(), rel=1e-12)
    assert found.difference.ci95 == pytest.approx((high - low) / 2, rel=1e-9)
    assert found.p.t == pytest.approx(expected.pvalue, rel=1e-9)
    assert found.p.wilcoxon == pytest.approx(stats.wilcoxon(scores(other) - scores(one)).pvalue, rel=1e-6)
    # 120 tasks: percentiles are within a tenth of the t-interval.
    assert [found.low, found.high] == pytest.approx([low, high], abs=0.1 * (high - low))
    assert found.verdict == "worse" and found.arm == "other"


def test_several_seeds_are_paired_seed_by_seed(make_arm: Callable[..., str], tmp_path: Path) -> None:
    folders = [make_arm("a", accuracy=0.6), make_arm("b", accuracy=0.7)]
    found = compare_arms(folders, resamples=500)
    means = [
        100 * (scores(tmp_path / "b" / f"seed{s}") - scores(tmp_path / "a" / f"seed{s}")).mean() for s in range(3)
    ]
    (contrast,) = found.contrasts
    assert found.seeds == (0, 1, 2) and contrast.difference.n == 3
    assert contrast.difference.mean == pytest.approx(np.mean(means), rel=1e-12)
    assert contrast.difference.ci95 == pytest.approx(stats.t.ppf(0.975, 2) * stats.sem(means), rel=1e-9)
    assert compare_arms([f"{folder}/seed*" for folder in folders], resamples=500).contrasts == found.contrasts


def test_the_classes_of_the_tasks_give_an_interval_of_their_own(make_arm: Callable[..., str], tmp_path: Path) -> None:
    folders = [make_arm("a", accuracy=0.6, classes=True), make_arm("b", accuracy=0.7, classes=True)]
    (found,) = compare_arms(folders, resamples=50).contrasts
    values = np.stack([100 * (scores(tmp_path / f"b/seed{s}") - scores(tmp_path / f"a/seed{s}")) for s in range(3)])
    tasks = np.arange(120)
    named = np.stack([tasks % 7, 7 + tasks % 5, 12 + tasks % 4], axis=1)[None].repeat(3, axis=0)
    assert found.other_classes == pytest.approx(class_interval(values, named).ci95, rel=1e-9)
    unknown = make_arm("c", accuracy=0.6)
    assert compare_arms([unknown, folders[1]], resamples=50).contrasts[0].other_classes is None
    assert "| ± classes |" in markdown(compare_arms(folders, resamples=50))


def test_classes_that_are_no_numbers_are_named(make_run: MakeRun) -> None:
    path = make_run("odd", classes=True)
    file = path / "episodes.csv"
    text = file.read_text(encoding="utf-8")
    file.write_text(text.replace(",0 7 12\n", ",0 seven 12\n", 1), encoding="utf-8")
    with pytest.raises(InputError, match="line 2, column classes holds '0 seven 12'"):
        load_run(path)
    file.write_text(text.replace(",0 7 12\n", ",0 7\n", 1), encoding="utf-8")
    with pytest.raises(InputError, match="classes has 2 and 3 numbers"):
        load_run(path)


def test_another_arm_changes_no_interval_but_the_correction(make_run: MakeRun) -> None:
    paths = [str(make_run(name, accuracy=value)) for name, value in (("a", 0.7), ("b", 0.69), ("c", 0.68))]
    (alone,) = compare_arms(paths[:2], resamples=500).contrasts
    together = compare_arms(paths, resamples=500).contrasts
    assert (alone.difference, alone.low, alone.high, alone.p) == (
        together[0].difference, together[0].low, together[0].high, together[0].p,
    )  # fmt: skip
    smaller, larger = sorted(c.p.wilcoxon for c in together)
    corrected = sorted(c.corrected.wilcoxon for c in together)
    assert corrected == pytest.approx([min(2 * smaller, 1), min(max(2 * smaller, larger), 1)], rel=1e-12)


def test_the_reference_can_be_chosen(make_run: MakeRun) -> None:
    paths = [str(make_run(name, accuracy=value)) for name, value in (("a", 0.7), ("b", 0.6))]
    first, other = compare_arms(paths, resamples=50), compare_arms(paths, reference=paths[1] + "/", resamples=50)
    assert first.arms == ("a", "b") and other.arms == ("b", "a")
    assert first.contrasts[0].difference.mean == -other.contrasts[0].difference.mean


@pytest.mark.parametrize(
    ("shift", "spread", "verdict"),
    [
        (0.0, 0.5, "equivalent"),
        (0.2, 0.5, "better, equivalent"),
        (-3.0, 2.0, "worse"),
        (-0.3, 6.0, "no gain"),
        (0.4, 8.0, "undecided"),
    ],
)
def test_verdicts(shift: float, spread: float, verdict: str) -> None:
    noise = np.random.default_rng(0).normal(size=(1, 400))
    values = shift + spread * (noise - noise.mean()) / noise.std()
    (found,) = contrasts(["arm"], [values], margin=0.5, resamples=2000)
    assert found.verdict == verdict


def test_the_bootstrap_alone_makes_no_arm_better() -> None:
    """Two seeds that agree leave nothing to resample; the t-test over two seeds knows better."""
    values = np.array([[1.0], [3.0]]) + np.random.default_rng(0).normal(size=(2, 300))
    (found,) = contrasts(["arm"], [values], margin=0.5, resamples=500)
    assert found.corrected.bootstrap < 0.05 < found.corrected.t and found.verdict == "undecided"


def test_unequal_budgets_regimes_and_few_seeds_are_warned_of(make_run: MakeRun, make_arm: Callable[..., str]) -> None:
    search, other = str(make_run("search")), str(make_run("other", steps=500))
    warnings = compare_arms([search, other], resamples=50).warnings
    assert any("unequal reward budgets (reward calls of search: 4,000; other: 2,000)" in text for text in warnings)
    assert any(text.startswith("one seed") for text in warnings)
    plain = str(make_run("plain", search=False))
    warnings = compare_arms([search, plain], resamples=50).warnings
    assert any("other" not in text and "plain: none" in text for text in warnings)
    assert any("search: inherited; plain: scratch" in text for text in warnings)
    warnings = compare_arms([make_arm("a"), make_arm("b")], resamples=50).warnings
    assert len(warnings) == 1 and warnings[0].startswith("3 seeds are too few")
    five = (0, 1, 2, 3, 4)
    assert compare_arms([make_arm("c", five), make_arm("d", five)], resamples=50).warnings == ()


TABLE = {"seed": 0, "weights": "abc", "tasks": 120, "replicates": 2, "plant": 0.0}


@pytest.mark.parametrize(
    ("key", "other"), [("seed", 1), ("weights", "def"), ("tasks", 900), ("replicates", 3), ("plant", 5.0)]
)
def test_runs_of_one_seed_on_different_tables_are_refused(make_run: MakeRun, key: str, other: object) -> None:
    one = make_run("one", results={"table": TABLE})
    two = make_run("two", results={"table": {**TABLE, key: other}})
    old = str(make_run("old"))  # does not say which table it is of
    message = f"seed 0 of {one} and of {two} were scored on different reward tables: {key} is {TABLE[key]} and {other};"
    for paths in ([str(one), str(two)], [old, str(one), str(two)]):
        with pytest.raises(InputError, match=re.escape(message)):
            compare_arms(paths, resamples=50)
    assert compare_arms([old, str(two)], resamples=50).seeds == (0,)
    assert len(paired_differences([load_run(one), load_run(two)], "transductive")) == 0
    assert len(paired_differences([load_run(one), load_run(old)], "transductive")) == 1


def test_seeds_of_one_table_are_warned_of_and_other_seeds_may_have_other_tables(make_run: MakeRun) -> None:
    def arm(name: str, weights: str) -> str:
        tables = [{**TABLE, "weights": digest} for digest in weights]
        runs = [make_run(f"{name}/{k}", results={"seed": k, "table": table}) for k, table in enumerate(tables)]
        return str(runs[0].parent)

    shared = "seeds 0, 2 share one reward table: their mean is one observation"
    few = "4 supernets are too few to show their spread"
    found = compare_arms([arm("a", "xyxzw"), arm("b", "xyxzw")], resamples=50)
    assert [text.startswith(begin) for text, begin in zip(found.warnings, (shared, few), strict=True)] == [True, True]
    assert (found.observations, found.contrasts[0].difference.n) == (4, 4)
    assert compare_arms([arm("c", "vwxyz"), arm("d", "vwxyz")], resamples=50).warnings == ()


def test_controller_seeds_of_one_supernet_are_averaged_before_the_interval(make_run: MakeRun) -> None:
    def arm(name: str, mean: float) -> tuple[str, list[np.ndarray]]:
        runs = [
            make_run(f"{name}/{k}", accuracy=mean, classes=True,
                     results={"seed": k, "table": {**TABLE, "weights": "xyxzx"[k]}})
            for k in range(5)
        ]  # fmt: skip
        return str(runs[0].parent), [scores(run, "transductive") for run in runs]

    (reference, before), (other, after) = arm("a", 0.6), arm("b", 0.7)
    by_seed = [100 * (new - old).mean() for new, old in zip(after, before, strict=True)]
    by_supernet = np.array([np.mean([by_seed[0], by_seed[2], by_seed[4]]), by_seed[1], by_seed[3]])
    found = compare_arms([reference, other], resamples=50).contrasts[0]
    half = stats.t.ppf(0.975, 2) * by_supernet.std(ddof=1) / np.sqrt(3)
    assert found.difference == pytest.approx((by_supernet.mean(), half, 3))
    assert found.other_classes is not None


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"results": {"n_way": 20}}, "n_way is 5 and 20"),
        ({"results": {"k_shot": 5}}, "k_shot is 1 and 5"),
        ({"results": {"n_query": 5}}, "n_query is 15 and 5"),
        ({"results": {"split": "val"}}, "split is test and val"),
        ({"results": {"data_class": "Omniglot"}}, "data_class is Glyphs and Omniglot"),
        ({"results": {"seed": 3}}, "has seeds 0 and .* has 3"),
        ({"episodes": 119}, "120 task ids from 0 to 119 and 119 from 0 to 118"),
    ],
)
def test_other_test_tasks_are_refused_and_both_named(make_run: MakeRun, change: dict, named: str) -> None:
    paths = [str(make_run("a")), str(make_run("b", **change))]
    with pytest.raises(InputError, match=f"{paths[0]}.*{paths[1]}.*{named}" if "seeds" not in named else named):
        compare_arms(paths)


def test_arms_that_cannot_be_compared_are_refused(
    make_run: MakeRun, make_arm: Callable[..., str], tmp_path: Path
) -> None:
    one = str(make_run("one"))
    with pytest.raises(InputError, match="1 arm given"):
        compare_arms([one])
    (tmp_path / "nothing").mkdir()
    with pytest.raises(InputError, match="nothing holds no run"):
        compare_arms([one, str(tmp_path / "nothing")])
    with pytest.raises(InputError, match=r"--reference=two is not one of the arms given \(.*one, .*one\)"):
        compare_arms([one, one], reference="two")
    with pytest.raises(InputError, match=r"--margin=0.0"):
        compare_arms([one, one], margin=0.0)
    with pytest.raises(InputError, match="has no episodes of bn_mode running, it has transductive, support"):
        compare_arms([one, one], bn_mode="running")
    with pytest.raises(InputError, match="no episode at all"):
        compare_arms([one, str(make_run("empty", omit=("episodes.csv",)))])
    with pytest.raises(InputError, match="tested on 1 task"):
        short = [str(make_run(name, episodes=1)) for name in ("s", "t")]
        compare_arms(short)
    twins = make_arm("twins", (0, 1))
    make_run("twins/again", results={"seed": 1})
    with pytest.raises(InputError, match="twins/again and .*twins/seed1 .* both have seed 1"):
        compare_arms([twins, one])
    mixed = make_arm("mixed", (0, 1))
    make_run("mixed/seed2", search=False, results={"seed": 2})
    with pytest.raises(InputError, match=r"algorithm MAMLENAS\) and .*seed2 \(algorithm MAML\)"):
        compare_arms([mixed, one])


def test_the_command_prints_and_writes_everything(
    make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [str(make_run("a", accuracy=0.7)), str(make_run("b<&|", accuracy=0.6, steps=500))]
    out = tmp_path / "deep" / "out"
    assert main([*paths, "--resamples=500", "--bn_mode=support", "--margin=1", f"--output={out}"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    comparison = compare_arms(paths, bn_mode="support", margin=1, resamples=500)
    content = json.loads((out / "compare.json").read_text())
    (found,), (written,) = comparison.contrasts, content["contrasts"]
    assert written["difference"] == found.difference.mean and written["bootstrap"] == [found.low, found.high]
    assert written["p_holm"]["equivalence"] == found.corrected.equivalence and content["unit"] == "percentage points"
    assert (out / "compare.md").read_text() == markdown(comparison) and "b<&\\|" in markdown(comparison)
    page = (out / "compare.html").read_text()
    assert "b&lt;&amp;|" in page and "b<&" not in page
    for text in (printed, page, markdown(comparison)):
        assert "unequal reward budgets" in text and "5-way 1-shot, 15 queries per class" in text
        assert f"{100 * (scores(Path(paths[1]), 'support')).mean():.2f}" in text
        assert "bn_mode" in text and "120 per seed, ids 0 to 119" in text


def test_a_mistake_ends_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["nowhere", "neither"])
    assert stopped.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1

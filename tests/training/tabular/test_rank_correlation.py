"""Correlations of proxies on a tiny search, from the command line; the truth is the table and the pure functions."""

import json
from pathlib import Path

import numpy as np
import pytest

from few_shot_nas.spaces import SPACES
from few_shot_nas.stats.rank_correlation import correlation
from few_shot_nas.tabular.reward_table import load_table
from few_shot_nas.tabular.selection import load_selection
from training.tabular import choose, rank_correlation, stage0

pytestmark = pytest.mark.usefixtures("tiny_search")
FEW = ["--run_dir=s", "--proxy_tasks=1", "--bootstrap=20"]


def error_of(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        rank_correlation.main(argv)
    assert ended.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    return line


def test_a_table_is_the_truth_and_size_is_always_a_row(capsys: pytest.CaptureFixture[str]) -> None:
    assert stage0.main("--run_dir=s --tasks=3 --replicates=1".split()) == 0
    assert rank_correlation.main([*FEW, "--table=s/stage0/table_val.npz", "--proxies=naswot,linear_regions"]) == 0
    captured = capsys.readouterr()
    assert "linear_regions: left out: linear_regions: space chain given" in captured.err
    assert "naswot" in captured.out and "params" in captured.out
    found = json.loads(Path("s/rank_correlation.json").read_text(encoding="utf-8"))
    assert set(found["correlations"]) == {"params", "macs", "naswot"} and found["architectures"] == 25
    table = load_table(Path("s/stage0/table_val.npz"))
    truth = table.accuracy.mean((1, 2), dtype="float64")
    assert found["accuracy"] == pytest.approx(truth.tolist())
    tau = correlation(np.array(found["scores"]["naswot"]), truth, "kendall")
    assert found["correlations"]["naswot"]["kendall"]["value"] == pytest.approx(tau)
    assert found["correlations"]["params"]["kendall_given_size"]["value"] is None


def test_scores_of_selections_beside_several_tables_are_averaged_over_these(
    capsys: pytest.CaptureFixture[str],
) -> None:
    tables = []
    for seed in (0, 1):
        words = f"--run_dir=s --tasks=3 --replicates=1 --seed={seed} --output=t{seed}".split()
        assert stage0.main(words) == 0
        tables.append(Path(f"t{seed}/table_val.npz"))
        if seed == 0:
            assert choose.main([*words, "--method=params", "--proxy_tasks=1"]) == 0
            assert "--chosen: no selection of macs beside t0/table_val.npz" in error_of(
                ["--chosen", "--table", str(tables[0])], capsys
            )
        assert choose.main([*words, "--method=params,macs,naswot", "--proxy_tasks=1"]) == 0
    assert rank_correlation.main(["--chosen", "--output=o.json", "--table", *map(str, tables)]) == 0
    found = json.loads(Path("o.json").read_text(encoding="utf-8"))
    taus, losses = [], []
    for seed, table in enumerate(tables):
        truth = load_table(table).accuracy.mean((1, 2), dtype="float64")
        scores = np.array(load_selection(Path(f"t{seed}/selection_naswot_val.npz")).facts["scores"])
        taus.append(correlation(scores, truth, "kendall"))
        losses.append(truth[scores.argmax()] - truth.max())
    half = 12.7062 * abs(taus[0] - taus[1]) / 2  # t of one degree of freedom; sd / sqrt(2)
    expected = {"value": np.mean(taus), "low": np.mean(taus) - half, "high": np.mean(taus) + half}
    assert found["correlations"]["naswot"]["kendall"] == pytest.approx(expected, rel=1e-4)
    assert found["picks"]["naswot"]["minus_best"] == pytest.approx(np.mean(losses), abs=1e-6)
    assert found["picks"]["naswot"]["ci95"] == pytest.approx(12.7062 * abs(losses[0] - losses[1]) / 2, rel=1e-4)
    assert found["correlations"]["params"]["kendall_given_size"]["value"] is None

    assert rank_correlation.main(["--chosen", "--bootstrap=20", "--table", str(tables[0])]) == 0
    alone = json.loads(Path("t0/rank_correlation.json").read_text(encoding="utf-8"))
    assert alone["correlations"]["naswot"]["kendall"]["value"] == pytest.approx(taus[0])
    assert "2 tables given" in error_of([*FEW, "--table", *map(str, tables)], capsys)
    assert "give --table=FILE, not --trained" in error_of(["--chosen", "--trained", "s"], capsys)
    assert choose.main(
        "--run_dir=s --tasks=2 --replicates=1 --output=other --method=macs --proxy_tasks=1".split()
    ) == 0
    Path("other/selection_macs_val.npz").rename("t0/selection_macs_val.npz")
    assert "does not fit the table that scores it (tasks=3 there, 2 here)" in error_of(
        ["--chosen", "--table", str(tables[0])], capsys
    )


def trained_alone(folder: Path, decisions: tuple[int, int], accuracies: list[float], **changed: object) -> None:
    """Write what a report reads of a run that trained one architecture and was tested in the bn_mode running."""
    accuracy = sum(accuracies) / len(accuracies)
    rows = [f"{task_id},running,{value}" for task_id, value in enumerate(accuracies)]
    folder.mkdir(parents=True)
    SPACES["chain"](channels=3, cells=2).decode(decisions).save(folder / "genotype.json")
    content = {
        "algorithm": "RFS", "model_class": "GenotypeNetwork", "data_class": "Glyphs", "n_way": 3, "k_shot": 2,
        "n_query": 3, "seed": 0, "split": "val", "test": {"running": {"accuracy": accuracy, "ci95": 0.1}}, **changed,
    }  # fmt: skip
    (folder / "results.json").write_text(json.dumps(content), encoding="utf-8")
    (folder / "episodes.csv").write_text("\n".join(["task_id,bn_mode,accuracy", *rows, ""]), encoding="utf-8")
    (folder / "config.yaml").write_text("seed: 0\n", encoding="utf-8")


def test_runs_that_trained_one_architecture_each_are_the_truth() -> None:
    pairs = [((0, 0), [1.0, 0.8]), ((1, 1), [0.9, 0.7]), ((3, 3), [0.1, 0.3]), ((2, 4), [0.4, 0.4])]
    for number, (decisions, accuracies) in enumerate(pairs):
        trained_alone(Path(f"r{number}") if number < 2 else Path("more", str(number)), decisions, accuracies)
    argv = [*FEW, "--proxies=params", "--output=out.json", "--trained", "r0", "r1", "more"]
    assert rank_correlation.main(argv) == 0
    found = json.loads(Path("out.json").read_text(encoding="utf-8"))
    assert found["accuracy"] == pytest.approx([0.9, 0.8, 0.2, 0.4]) and len(found["scores"]["params"]) == 4
    first = int(np.argmax(found["scores"]["macs"]))
    differences = np.subtract(pairs[first][1], pairs[0][1])
    half = 12.7062 * abs(differences[0] - differences[1]) / 2  # t of one degree of freedom; sd / sqrt(2)
    assert found["picks"]["macs"] == {
        "architecture": first,
        "accuracy": pytest.approx(np.mean(pairs[first][1])),
        "minus_best": pytest.approx(differences.mean()),
        "ci95": pytest.approx(half, rel=1e-4),
    }
    assert found["bn_mode"] == "running" and found["truth"] == ["r0", "r1", "more/2", "more/3"]


def test_a_mistake_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--table=FILE or by --trained" in error_of(FEW, capsys)
    assert "--table needs --run_dir=RUN" in error_of(["--table=s/none.npz"], capsys)
    unknown = error_of([*FEW, "--proxies=naswto", "--trained", "s"], capsys)
    assert "--proxies=naswto: unknown. Did you mean naswot" in unknown
    assert "1 architectures given, at least 4" in error_of([*FEW, "--trained", "s"], capsys)
    trained_alone(Path("t/a"), (0, 0), [0.5, 0.5])
    assert "--trained=t/a: no accuracy in bn_mode=support; all runs have running" in error_of(
        [*FEW, "--bn_mode=support", "--trained", "t"], capsys
    )
    trained_alone(Path("t/b"), (0, 1), [0.5, 0.5], k_shot=5)
    assert "--trained=t/b: was tested on other tasks than t/a" in error_of([*FEW, "--trained", "t"], capsys)
    Path("t/a/genotype.json").unlink()
    assert "--trained=t/a: has no genotype.json" in error_of([*FEW, "--trained", "t/a"], capsys)
    assert "--trained=nowhere: no results.json there or one folder below" in error_of(
        [*FEW, "--trained", "nowhere"], capsys
    )

"""Choices of a tiny search, from the command line to an arm; the truth is the pure functions on the same tasks."""

from pathlib import Path

import numpy as np
import pytest

from few_shot_nas.algorithms import MAMLENAS
from few_shot_nas.algorithms.maml_enas_settings import ControllerLoop
from few_shot_nas.episode import tasks
from few_shot_nas.proxies.untrained import untrained_score
from few_shot_nas.report import load_run
from few_shot_nas.tabular.alphas import (
    AlphaDescent,
    adapted_alphas,
    chosen_accuracy,
    likeliest,
    meta_learned,
    neutral_alphas,
)
from few_shot_nas.tabular.array_file import KeptRows
from few_shot_nas.tabular.selection import load_selection
from few_shot_nas.tabular.reward_table import load_table
from training.tabular import arms, choose, stage0

TASKS = "--run_dir=s --tasks=4 --replicates=2".split()


@pytest.fixture(autouse=True)
def workplace(monkeypatch: pytest.MonkeyPatch, tiny_search: list[str]) -> None:
    """The tiny search, and few tasks for the rate."""
    monkeypatch.setattr(choose, "RATE_TASKS", 3)


@pytest.fixture
def filler(workplace: None) -> stage0.Filler:
    """The tasks of the val split, opened anew."""
    found: list[stage0.Filler] = []

    def keep(own: object, opened: stage0.Filler, begun: object) -> tuple[np.ndarray, dict[str, object]]:
        found.append(opened)
        return np.zeros((4, 2), np.int64), {"passes_before": 0, "passes_per_task": 0}

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(choose.METHODS, "naswot", keep)
        assert choose.main([*TASKS, "--method=naswot", "--output=thrown_away"]) == 0
    return found[0]


def place(filler: stage0.Filler, decisions: tuple[int, ...]) -> int:
    return list(filler.supernet.space.enumerate()).index(decisions)


def test_alphas_take_the_best_rate_of_training_tasks_and_choose_for_every_replicate(filler: stage0.Filler) -> None:
    assert choose.main([*TASKS, "--method=alphas", "--steps=2"]) == 0
    found = load_selection(Path("s/stage0/selection_alphas_val.npz"))
    start, training = neutral_alphas(filler.supernet), filler.of_split("train")
    scores = {
        rate: np.mean([
            chosen_accuracy(filler.supernet, list(tasks(training.episode(i)[0])), start, AlphaDescent(3, 2, rate))
            for i in range(3)
        ])
        for rate in choose.RATES
    }  # fmt: skip
    assert found.facts["rate_accuracy"] == {str(rate): pytest.approx(score) for rate, score in scores.items()}
    assert found.facts["rate"] == max(scores, key=lambda rate: scores[rate])
    loop = AlphaDescent(3, 2, found.facts["rate"])
    expected = [
        [
            place(filler, likeliest(adapted_alphas(filler.supernet, task, start, loop)))
            for task in tasks(filler.episode(i)[0])
        ]
        for i in range(4)
    ]
    assert found.places.tolist() == expected and len(np.unique(found.places)) > 1
    assert (found.facts["passes_per_task"], found.facts["passes_before"]) == (30, 4 * 3 * 2 * 31)
    assert found.facts["label_free"] is True and found.facts["weights"]


def test_meta_alphas_start_from_what_other_training_tasks_taught(filler: stage0.Filler) -> None:
    argv = [*TASKS, "--method=meta_alphas", "--steps=1", "--rate=2", "--meta_steps=2", "--meta_lr=0.5"]
    assert choose.main(argv) == 0
    found = load_selection(Path("s/stage0/selection_meta_alphas_val.npz"))
    training = filler.of_split("train")
    first = [next(tasks(training.episode(task_id)[0])) for task_id in range(3, 11)]
    loop = AlphaDescent(3, 1, 2.0)
    start = meta_learned(filler.supernet, [first[:4], first[4:]], neutral_alphas(filler.supernet), loop, 0.5)
    np.testing.assert_allclose(found.facts["start"], start.numpy(), atol=1e-6)
    task = next(tasks(filler.episode(2)[0]))
    assert found.places[2, 0] == place(filler, likeliest(adapted_alphas(filler.supernet, task, start, loop)))
    assert found.facts["passes_before"] == 2 * 4 * 2 * 15 and found.facts["rate"] == 2.0
    before = found.places.tobytes()
    assert choose.main(argv) == 0
    assert load_selection(Path("s/stage0/selection_meta_alphas_val.npz")).places.tobytes() == before


@pytest.mark.parametrize("proxy", ["naswot", "ntk_condition"])
def test_a_proxy_chooses_one_architecture_and_becomes_an_arm(filler: stage0.Filler, proxy: str) -> None:
    for split in ("train", "val"):
        assert stage0.main([*TASKS, f"--split={split}"]) == 0
    assert choose.main([*TASKS, f"--method={proxy}", "--proxy_tasks=2"]) == 0
    found = load_selection(Path(f"s/stage0/selection_{proxy}_val.npz"))
    training, space = filler.of_split("train"), filler.supernet.space
    learned = [next(tasks(training.episode(task_id)[0])) for task_id in range(2)]
    scores = [untrained_score(proxy, space.decode(decisions), learned, 0) for decisions in space.enumerate()]
    assert found.places.shape == (4, 2) and set(found.places.flatten()) == {int(np.argmax(scores))}
    assert (found.facts["passes_before"], found.facts["passes_per_task"]) == (50, 0)
    tables = ["--train_table=s/stage0/table_train.npz", "--test_table=s/stage0/table_val.npz", "--output=out"]
    assert arms.main([*tables, "--arms=A", "--seeds=0", f"--selections=s/stage0/selection_{proxy}_val.npz"]) == 0
    accuracy = load_table(Path("s/stage0/table_val.npz")).accuracy[int(np.argmax(scores))].mean(1)
    run = load_run(f"out/I_{proxy}/seed0")
    np.testing.assert_allclose(run.episodes["transductive"].accuracy, accuracy, rtol=1e-6)


def error_of(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        choose.main(argv)
    assert ended.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    return line


@pytest.mark.parametrize("method", ["alphas", "naswot"])
def test_a_killed_command_continues_where_it_stopped(monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    words = [*TASKS, f"--method={method}", "--steps=2", "--rate=10", "--proxy_tasks=1"]
    assert choose.main([*words, "--output=whole"]) == 0
    monkeypatch.setattr(choose, "CHUNK", 2)
    added, add = [0], KeptRows.add

    def killed(self: KeptRows, row: object, save: bool) -> None:
        if added[0] == 3:
            raise KeyboardInterrupt
        added[0] += 1
        add(self, row, save)

    with monkeypatch.context() as patch:
        patch.setattr(KeptRows, "add", killed)
        with pytest.raises(KeyboardInterrupt):
            choose.main([*words, "--output=again"])
    begun = Path(f"again/selection_{method}_val.begun.npz")
    with np.load(begun) as content:
        assert len(content["rows"]) == 2
    assert choose.main([*words, "--output=again"]) == 0
    there, here = (load_selection(Path(place, f"selection_{method}_val.npz")) for place in ("whole", "again"))
    assert (there.places == here.places).all() and there.facts.get("scores") == here.facts.get("scores")
    assert not begun.exists()


def test_several_methods_write_what_each_writes_alone() -> None:
    assert choose.main([*TASKS, "--method=params,naswot,params", "--proxy_tasks=1", "--output=together"]) == 0
    for method in ("params", "naswot"):
        assert choose.main([*TASKS, f"--method={method}", "--proxy_tasks=1", "--output=alone"]) == 0
        one, other = (load_selection(Path(folder, f"selection_{method}_val.npz")) for folder in ("together", "alone"))
        assert (one.places == other.places).all() and one.arm == other.arm == f"I_{method}"
        assert one.facts["scores"] == other.facts["scores"]


def test_a_mistake_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    alphas, naswot = [*TASKS, "--method=alphas"], [*TASKS, "--method=naswot"]
    unknown = error_of([*TASKS, "--method=naswto"], capsys)
    assert "--method=naswto: unknown. Did you mean naswot? Choices: alphas, fisher" in unknown
    assert "--steps=0: must be at least 1" in error_of([*alphas, "--steps=0", "--rate=2"], capsys)
    assert "--meta_steps=0: must be at least 1" in error_of([*alphas, "--meta_steps=0"], capsys)
    assert "--proxy_tasks=0: must be at least 1" in error_of([*naswot, "--proxy_tasks=0"], capsys)
    assert "--tasks=-1: must be at least 1" in error_of([*naswot, "--tasks=-1"], capsys)
    assert "--method=alphas: k_shot=1 leaves no image" in error_of([*alphas, "--k_shot=1"], capsys)


def test_selections_for_another_table_are_refused_before_the_work(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert stage0.main([*TASKS, "--n_query=1"]) == 0
    monkeypatch.setitem(choose.METHODS, "naswot", lambda own, filler, keep: pytest.fail("the work was begun"))
    message = error_of([*TASKS, "--method=naswot"], capsys)
    assert "selection_naswot_val.npz does not fit the table that scores it (n_query=1 there, 2 here)" in message


def test_a_table_describes_a_task_as_a_conditioned_controller_of_mamlenas_sees_it(filler: stage0.Filler) -> None:
    (task, _) = tasks(filler.episode(1)[0])
    search = MAMLENAS(filler.supernet, loop=ControllerLoop(task_embedding=True))
    seen = search.on_task(task).context
    assert seen is not None and seen.tolist() == filler.embedding(task).tolist()

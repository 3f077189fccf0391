"""Published evaluation protocols by name: what they set, what they refuse, and their column in tables."""

import json
import typing
from pathlib import Path

import pytest

from few_shot_nas.errors import InputError
from few_shot_nas.report.contrasts import compare_arms
from few_shot_nas.report.run import load_run
from few_shot_nas.report.tables import tabulate
from training import evaluate, run_experiment
from training.cli import EXPERIMENT_FLAGS, parse
from training.protocols import PROTOCOLS

#: Tasks, queries a class, copies, steps, bn_mode, as the released codes have them; None where there is no such flag.
PUBLISHED = {
    ("tnas", "MAML"): (600, 15, None, 10, "transductive"),
    ("metanas", "MAML"): (2500, 1, None, 100, "transductive"),
    ("metantk", "RFS"): (1000, 50, 5, None, "running"),
    ("rfs", "RFS"): (600, 15, 5, None, "running"),
    ("canonical", "RFS"): (600, 15, 0, None, "running"),
    ("canonical", "MAML"): (600, 15, None, None, "support"),
    ("canonical", "ProtoNet"): (600, 15, None, None, "support"),
}


def test_the_command_line_offers_those_that_there_are() -> None:
    (flag,) = [flag for flag in EXPERIMENT_FLAGS if flag.name == "protocol"]
    assert typing.get_args(typing.get_args(flag.type)[0]) == tuple(PROTOCOLS)


@pytest.mark.parametrize(("name", "algorithm"), PUBLISHED)
def test_a_protocol_sets_the_flags_of_its_publication(name: str, algorithm: str) -> None:
    values = parse([f"--algorithm={algorithm}", f"--protocol={name}", "--data_class=MiniImagenet"]).values
    names = ("test_episodes", "n_query", "support_copies", "eval_inner_steps", "bn_mode")
    assert tuple(values.get(flag) for flag in names) == PUBLISHED[name, algorithm]
    again = parse([f"--{flag}={value}" for flag, value in values.items() if flag in PROTOCOLS[name].flags]
                  + [f"--algorithm={algorithm}", f"--protocol={name}"])  # fmt: skip
    assert again.values["n_query"] == values["n_query"]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--algorithm=MAML", "--protocol=rfs"], "--protocol=rfs: sets support_copies, which this learner does not"),
        (["--algorithm=RFS", "--protocol=tnas"], "--protocol=tnas: sets inner_optimizer.*it is for MAML"),
        (["--algorithm=RFS", "--protocol=rfs", "--n_query=5"], "--n_query=5: --protocol=rfs means 15; leave n_query"),
        (["--algorithm=RFS", "--protocol=rsf"], "--protocol=rsf: expected one of canonical, tnas"),
    ],
)
def test_what_does_not_fit_is_refused(words: list[str], complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        parse(words)


@pytest.mark.usefixtures("tiny_search")
def test_tables_have_a_column_of_protocols_where_they_are_mixed(monkeypatch: pytest.MonkeyPatch) -> None:
    small = PROTOCOLS["canonical"]._replace(flags={"n_query": 2, "test_episodes": 3})
    monkeypatch.setitem(PROTOCOLS, "canonical", small)
    flags = "--algorithm=ProtoNet --model_class=Conv4 --width=4 --n_way=3 --n_query=2 --max_meta_steps=1".split()
    assert run_experiment.main([*flags, "--val_episodes=2", "--test_episodes=3", "--run_dir=own"]) == 0
    assert evaluate.main(["--run_dir=own", "--protocol=canonical", "--output=named"]) == 0
    named = json.loads(Path("named/results.json").read_text(encoding="utf-8"))
    assert named["protocol"] == "canonical" and json.loads(Path("own/results.json").read_text())["protocol"] is None
    runs = [load_run("own"), load_run("named")]
    table = tabulate(runs)
    assert [row[table.head.index("protocol")] for row in table.rows] == ["own", "canonical"]
    assert "protocol" not in tabulate(runs[1:]).head and "protocol canonical" in tabulate(runs[1:]).common
    assert "protocol" not in tabulate(runs[:1]).common
    found = compare_arms(["own", "named"])
    assert dict(found.protocol)["protocol"] == "own, canonical"
    assert any(line.startswith("protocols are mixed (own: own; named: canonical)") for line in found.warnings)

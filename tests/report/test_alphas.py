"""Searches by gradient in a report. Truth: one-hot weights of known genotypes, and files written by hand."""

import json

import pytest
import torch

from few_shot_nas.errors import InputError
from few_shot_nas.report import load_run, write_report
from few_shot_nas.report.alphas import genotypes_over_time, most_frequent, read_decoded
from few_shot_nas.runtime.choices_csv import ChoicesCSV
from few_shot_nas.spaces import SPACES
from few_shot_nas.spaces.pair_mixed_supernet import PairMixedSupernet

SPACE = SPACES["darts_fewshot"](8, 1, 2)
CHOICES = [[min(wanted, len(d.choices) - 1) for d in SPACE.decisions] for wanted in (0, 1)]
FIRST, SECOND = map(SPACE.decode, CHOICES)


@pytest.fixture
def search(make_run):
    """A run whose weights stand for FIRST at meta-steps 10 and 20 and for SECOND at 30."""
    path = make_run()
    (path / "genotype.json").write_text(SECOND.to_json())
    (path / "metrics.csv").write_text("meta_step,alphas/entropy_fraction\n10,1.0\n20,0.8\n30,0.3\n")
    names = [f"{c}/{s}_{d}={op}" for c, edges in SPACE.menu().items() for (s, d), ops in edges.items() for op in ops]
    rows = [["meta_step", *names]]
    for step, genotype in ((10, FIRST), (20, FIRST), (30, SECOND)):
        weights = SPACE.one_hot(genotype)
        rows.append([step, *(w for c in SPACE.menu() for row in weights[c].tolist() for w in row)])
    (path / "choices.csv").write_text("\n".join(",".join(map(str, row)) for row in rows) + "\n")
    return path


def test_the_genotype_of_a_row_is_what_its_weights_stand_for_and_no_repeat_is_told(search):
    assert genotypes_over_time(load_run(search)) == [(10, FIRST), (30, SECOND)]


def test_a_policy_over_time_is_no_mixture(make_run):
    assert genotypes_over_time(load_run(make_run())) == []


def test_weights_of_another_space_give_no_genotype(search):
    (search / "choices.csv").write_text("meta_step,normal/0_2=other\n10,1.0\n")
    assert genotypes_over_time(load_run(search)) == []


def test_edges_of_unlikely_pairs_are_not_in_the_genotype_and_ops_without_a_column_have_no_weight(make_run):
    """Where a search chose pairs of inputs, the truth is its network's own choice."""
    torch.manual_seed(0)
    net = PairMixedSupernet(5, 1, 28, space="darts_fewshot", channels=8, cells=1, nodes=3)
    for value in net.alphas.values():
        value.data.normal_()
    path = make_run()
    (path / "genotype.json").write_text(net.discretise().to_json())
    (path / "metrics.csv").write_text("meta_step,alphas/entropy_fraction\n10,0.5\n")
    log = ChoicesCSV(path / "choices.csv")
    log.log_choices(10, [decision for decision, _ in net.choices()], [row.tolist() for _, row in net.choices()])
    assert genotypes_over_time(load_run(path)) == [(10, net.discretise())]


def test_the_page_speaks_of_alphas_and_not_of_a_policy(search):
    text = write_report(search).read_text(encoding="utf-8")
    for said in ("<h2>Alphas</h2>", "Weights of the ops", "Genotype over time", "Meta-step 30", "prefer some"):
        assert said in text, said
    assert "Choices of the policy" not in text and "<h2>Controller</h2>" not in text
    assert "Genotypes of single tasks" not in text


def write_decoded(path, content):
    (path / "decode").mkdir()
    (path / "decode" / "decoded.json").write_text(json.dumps(content))


def test_the_page_tells_how_tasks_spread_over_genotypes(search):
    gain = {"mean": -0.02, "ci95": 0.01}
    better = {"mean": 0.03, "ci95": 0.01}
    gains = {"own": gain, "most_often": gain, "difference": gain, "difference_random": better}
    accuracy = {"support": {"tasks": 10, **gains}}
    write_decoded(search, {"tasks": 10, "distinct": 2, "counts": {"aa": 3, "bb": 7}, "accuracy": accuracy})
    found = read_decoded(load_run(search))
    assert found.rows() == [("bb", 7, "70.0"), ("aa", 3, "30.0")]
    text = write_report(search).read_text(encoding="utf-8")
    assert "10 tasks of the test split decode to 2 genotypes; the most frequent has 70.0 %" in text
    assert "minus the most frequent one: −2.0 ± 1.0 points on 10 tasks, worse" in text
    assert "minus random ones: +3.0 ± 1.0 points on 10 tasks, better" in text


def test_the_most_frequent_genotypes_of_tasks_are_drawn(search):
    write_decoded(search, {"tasks": 5, "counts": {"aa": 3, "bb": 1, "cc": 1}})
    (search / "decode" / "genotypes").mkdir()
    for name, genotype in (("aa", FIRST), ("cc", SECOND)):  # one file is gone
        genotype.save(search / "decode" / "genotypes" / f"{name}.json")
    run = load_run(search)
    assert most_frequent(run, read_decoded(run)) == [("aa", 3, FIRST), ("cc", 1, SECOND)]
    text = write_report(search).read_text(encoding="utf-8")
    assert "<h3>aa, 3 tasks</h3>" in text and "<h3>cc, 1 task</h3>" in text


def test_one_genotype_for_all_tasks_is_said_in_words(search):
    write_decoded(search, {"tasks": 5, "counts": {"aa": 5}})
    assert "does not adapt" in read_decoded(load_run(search)).sentences[0]


@pytest.mark.parametrize("content", [{"tasks": 5}, {"counts": {}}, {"counts": {"aa": "many"}}, []])
def test_a_damaged_decoding_is_named(search, content):
    write_decoded(search, content)
    with pytest.raises(InputError, match=r"decoded\.json"):
        read_decoded(load_run(search))

"""Random architectures from the command line: different, of the space, reproducible, and refused in one line."""

from pathlib import Path

import pytest

from few_shot_nas.nn.cost import count_parameters
from few_shot_nas.spaces import SPACES
from few_shot_nas.spaces.genotype import Genotype
from few_shot_nas.spaces.supernet import DerivedNetwork
from training import draw

CHAIN = ["--space=chain", "--channels=3", "--cells=2"]


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def drawn(*words: str) -> list[Genotype]:
    assert draw.main([*words]) == 0
    (output,) = [Path(word.removeprefix("--output=")) for word in words if word.startswith("--output=")]
    return [Genotype.load(output / f"random_{number}.json") for number in range(len(list(output.iterdir())))]


def test_draws_are_different_ones_of_the_space_and_the_first_of_more() -> None:
    few = drawn(*CHAIN, "--count=5", "--output=few")
    every = drawn(*CHAIN, "--count=25", "--output=every")
    assert every[:5] == few and len(set(every)) == 25 == SPACES["chain"](3, 2).size()
    assert drawn(*CHAIN, "--count=5", "--output=other", "--seed=1") != few


def test_those_like_an_architecture_have_its_sizes_and_are_not_it() -> None:
    found = SPACES["chain"](channels=3, cells=2).decode((1, 2))
    Path("run").mkdir()
    found.save("run/genotype.json")
    for like in ("run", "run/genotype.json"):
        others = drawn(f"--like={like}", "--count=24", f"--output=others{len(like)}")
        assert found not in others and len(set(others)) == 24 and {one.cells for one in others} == {2}


def test_those_of_few_parameters_are_the_draws_that_have_no_more() -> None:
    def size(genotype: Genotype) -> int:
        return count_parameters(DerivedNetwork(5, 1, 28, genotype))

    every = drawn(*CHAIN, "--count=25", "--output=every")
    median = sorted(map(size, every))[12]
    flags = [f"--max_params={median}", "--in_channels=1", "--image_size=28", "--count=9", "--output=few"]
    assert drawn(*CHAIN, *flags) == [genotype for genotype in every if size(genotype) <= median][:9]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--output=o"], "give either --like=RUN"),
        ([*CHAIN, "--like=run", "--output=o"], "give either --like=RUN"),
        (["--like=run", "--cells=2", "--output=o"], "give either --like=RUN"),
        (["--space=chian", "--output=o"], "--space=chian: unknown. Did you mean chain"),
        ([*CHAIN, "--count=26", "--output=o"], "--count=26 given, space chain of these sizes has 25 others"),
        (["--like=nowhere.json", "--output=o"], "genotype nowhere.json: cannot be read"),
        ([*CHAIN, "--count=0", "--output=o"], "--count=0"),
        ([*CHAIN, "--max_params=9", "--output=o"], "0 architectures of at most --max_params=9 parameters were found"),
    ],
)
def test_a_mistake_is_one_line(words: list[str], complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        draw.main(words)
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert complaint in line

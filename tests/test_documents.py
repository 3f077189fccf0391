"""The commands and links of README.md and docs/. Truth: the programs' own parsers, and the files of the repository."""

import importlib
import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

from training import class_tables, cli

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"```.*?```", re.DOTALL)
LINK = re.compile(r"\]\(([^)#:\s]*)(?:#([^)\s]+))?\)")
#: Words of the laboratory that a reader meets nowhere else.
LABORATORY = ("arm", "replicate", "shrunk", "plant", "rung")


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def commands(page: Path) -> list[str]:
    """Return the lines of a page's bash blocks that start a program of training/, with continuation lines joined."""
    blocks = re.findall(r"```bash\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line.strip() for line in lines if line.strip().startswith("python training/")]


COMMANDS = [(relative(page), line) for page in PAGES for line in dict.fromkeys(commands(page))]
#: Those that are complete: no variable of the shell, and no dots for something left out.
COMPLETE = [(page, line) for page, line in COMMANDS if "$" not in line.replace("$HOSTNAME", "") and "..." not in line]


@pytest.mark.parametrize(("page", "line"), COMPLETE)
def test_a_command_has_flags_that_its_program_takes(page: str, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program, *words = shlex.split(line, comments=True)[1:]
    assert (ROOT / program).is_file()
    if program.endswith("run_experiment.py"):
        monkeypatch.chdir(ROOT)
        parsed = cli.parse([word for word in words if not word.startswith("--config=runs/")])
        assert parsed.notes == [] or "--gpus" in line, "an old spelling outside of the list of them"
        return
    module = importlib.import_module(program.removesuffix(".py").replace("/", "."))
    monkeypatch.setattr(module, "guarded", lambda work: 0)  # read the words, and do not work
    assert module.main(words) == 0


def test_there_are_commands_of_every_program() -> None:
    named = {re.match(r"python training/(\w+)\.py", line)[1] for _, line in COMPLETE if "tabular" not in line}
    assert named >= {"run_experiment", "evaluate", "predict", "report", "compare", "sweep", "export"}


def slug(heading: str) -> str:
    """Return the anchor of a heading, as GitHub and MkDocs make it."""
    return re.sub(r"[\s]+", "-", re.sub(r"[^\w\s-]", "", heading.strip().lower()))


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_links_within_the_repository_lead_somewhere(page: Path) -> None:
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for target, anchor in LINK.findall(text):
        there = (page.parent / target).resolve() if target else page
        assert there.exists(), target
        if anchor and there.suffix == ".md":
            headings = re.findall(r"^#+ (.*)$", FENCE.sub("", there.read_text(encoding="utf-8")), re.MULTILINE)
            assert anchor in {slug(heading) for heading in headings}, f"{target}#{anchor}"


@pytest.mark.parametrize("name", ["does_maml_enas_work", "estimators", "stage0", "maml_enas"])
def test_a_page_of_the_laboratory_opens_with_its_use_and_links_words_at_their_first_use(name: str) -> None:
    text = (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")
    assert "**What you get from this page.**" in text.split("\n## ")[0]
    prose = re.sub(r"`[^`]*`", "", FENCE.sub("", text))
    for word in LABORATORY:
        uses = re.finditer(rf"(\[)?\b{word}(s|ed)?\b(?:\]\(glossary\.md#([\w-]+)\))?", prose, re.IGNORECASE)
        first = next((use for use in uses), None)
        if first is not None:
            assert first[3], f"{word} is no link to the glossary: {prose[first.start() - 40 : first.end()]}"


def test_the_pages_of_the_site_exist() -> None:
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))

    def files(entry: object) -> list[str]:
        if isinstance(entry, str):
            return [entry]
        return [file for part in (entry.values() if isinstance(entry, dict) else entry) for file in files(part)]

    named = files(site["nav"])
    assert len(named) == len(set(named)) > 15
    assert all((ROOT / "docs" / name).is_file() for name in named)


def test_design_names_every_algorithm_and_every_folder_and_file_of_the_package() -> None:
    text = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    algorithms = text.split("## 5. Algorithms")[1].split("\n## ")[0]
    first_cells = " ".join(line.split("|")[1] for line in algorithms.splitlines() if line.startswith("|"))
    assert set(class_tables.listing("algorithm")) <= set(re.findall(r"\w+", first_cells))
    tree = text.split("## 2. Layers")[1].split("```")[1]
    listed = set(re.findall(r"^  (\w+)(?:/|\.py) +L\d", tree, re.MULTILINE))
    places = {path.stem for path in (ROOT / "few_shot_nas").iterdir() if not path.name.startswith(("_", "."))}
    assert listed == places
    layers = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split("## Layers")[1].split("\n## ")[0]
    assert places <= set(re.findall(r"`(\w+)/?`", layers))


@pytest.fixture
def stand_ins(tmp_path: Path) -> dict[str, str]:
    """An environment where srun, python and torchrun print their words, one a line."""
    for name in ("srun", "python", "torchrun"):
        program = tmp_path / name
        program.write_text("#!/usr/bin/env bash\nprintf '%s\\n' \"$@\"\n")
        program.chmod(0o755)
    return {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}


@pytest.mark.parametrize(
    ("script", "given", "words"),
    [
        ("slurm.sbatch", ["--algorithm=ProtoNet"], ["--devices=2", "--num_nodes=3", "--ckpt_path=auto"]),
        ("torchrun.sh", ["2", "--algorithm=ProtoNet"], ["--standalone", "--nproc_per_node=2"]),
        ("sweep.sbatch", ["training/sweeps/maml_glyphs.yaml", "9", "sqlite:///s.db", "--n_way=3"],
         ["--count=9", "--storage=sqlite:///s.db", "--name=maml_glyphs", "--output=runs/sweeps/maml_glyphs-1"]),
    ],
)  # fmt: skip
def test_a_script_for_clusters_starts_a_program_with_flags_that_it_takes(
    script: str, given: list[str], words: list[str], stand_ins: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_ins |= {"SLURM_NTASKS_PER_NODE": "2", "SLURM_JOB_NUM_NODES": "3", "SLURM_ARRAY_TASK_ID": "1"}
    done = subprocess.run(
        ["bash", ROOT / "training" / "clusters" / script, *given],
        env=stand_ins, cwd=stand_ins["PATH"].split(os.pathsep)[0], capture_output=True, text=True, check=True,
    )  # fmt: skip
    printed = done.stdout.split("\n")[:-1]
    assert set(words) <= set(printed)
    program = next(place for place, word in enumerate(printed) if word.startswith("training/"))
    module = importlib.import_module(printed[program].removesuffix(".py").replace("/", "."))
    if script == "sweep.sbatch":
        monkeypatch.setattr(module, "guarded", lambda work: 0)
        assert module.main(printed[program + 1 :]) == 0
    else:
        assert cli.parse(printed[program + 1 :]).values["algorithm"] == "ProtoNet"


def test_the_demo_starts_programs_with_flags_that_they_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "python"
    program.write_text("#!/usr/bin/env bash\nexec 9>>\"$0.words\"; flock 9; printf '%s\\n' \"$@\" . >&9\n")
    program.chmod(0o755)
    environment = {**os.environ, "PYTHON": str(program), "OUT": str(tmp_path / "demo"), "SEED": "4"}
    subprocess.run(["bash", ROOT / "tasks" / "demo.sh"], env=environment, capture_output=True, check=True)
    started = [words.split("\n") for words in (tmp_path / "python.words").read_text().split("\n.\n") if words]
    runs = [cli.parse(words) for name, *words in started if name == "training/run_experiment.py"]
    chosen = sorted(run.values["algorithm"] for run in runs)
    assert chosen == ["MAMLENAS", "ProtoNet", "ProtoNet", "ProtoNet", "RandomSearch"]
    assert all(run.notes == [] and run.values["seed"] == 4 for run in runs)
    values = {run.values["algorithm"]: run.values for run in runs}
    search, random = values["MAMLENAS"], values["RandomSearch"]
    calls = (search["max_meta_steps"] - search["warmup_steps"]) * (search["inner_archs"] + search["outer_archs"])
    assert calls == random["max_meta_steps"] * random["rewards_per_task"], "the two searches spend the same rewards"
    for name, *words in started:
        if name in ("training/report.py", "training/predict.py"):
            module = importlib.import_module(name.removesuffix(".py").replace("/", "."))
            monkeypatch.setattr(module, "guarded", lambda work: 0)
            assert module.main(words) == 0
    assert {"training/report.py", "training/predict.py"} <= {name for name, *_ in started}

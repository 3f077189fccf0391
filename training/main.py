"""One command for all: ``few-shot-nas train --algorithm=MAML --data_class=Omniglot``.

Each word stands for a program of this folder, which takes the flags that follow.
"""

import difflib
import importlib
import sys
from collections.abc import Sequence
from typing import NamedTuple

import few_shot_nas
from training.exits import fail


class Command(NamedTuple):
    """One subcommand.

    Attributes:
        module: the program, whose ``main`` takes the words after the subcommand.
        text: one line for the list.
        words: flags that come before the user's.
    """

    module: str
    text: str
    words: tuple[str, ...] = ()


COMMANDS = {
    "train": Command("training.run_experiment", "meta-train a network, test it, and leave a run directory"),
    "search": Command("training.run_experiment", "search, with MAMLENAS by default", ("--algorithm=MAMLENAS",)),
    "decode": Command("training.decode", "the genotype of every test task of a search by gradient"),
    "draw": Command("training.draw", "random architectures of a space, to compare a searched one with"),
    "evaluate": Command("training.evaluate", "test a finished run again: more episodes, other data"),
    "predict": Command("training.predict", "sort new pictures into your own classes"),
    "report": Command("training.report", "one table and page of several runs"),
    "compare": Command("training.compare", "is it better? paired on the test tasks, over seeds"),
    "sweep": Command("training.sweep", "many runs from one YAML file"),
    "export": Command("training.export", "the network as an ONNX or PyTorch file"),
}


def text() -> str:
    """Return the list of subcommands."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {command.text}" for name, command in COMMANDS.items()]
    example = "  few-shot-nas train --algorithm=ProtoNet --data_class=ImageFolder --data_dir=photos --run_dir=runs/mine"
    return "\n".join(
        ["usage: few-shot-nas COMMAND [--flag=value ...]", "", *lines, "", "few-shot-nas COMMAND --help", example, ""]
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; what the program returns, or SystemExit with code 2 after one line for a mistake of the user."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        print(text(), end="")
        return 0
    if words[0] == "--version":
        print(few_shot_nas.__version__)
        return 0
    if words[0] not in COMMANDS:
        close = difflib.get_close_matches(words[0], COMMANDS, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        fail(f"few-shot-nas {words[0]}: unknown; {hint}there are {', '.join(COMMANDS)}")
    command = COMMANDS[words[0]]
    return int(importlib.import_module(command.module).main([*command.words, *words[1:]]))


if __name__ == "__main__":
    sys.exit(main())

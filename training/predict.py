"""Sort new pictures into your own classes by a trained model, from a few labelled pictures of each class.

``python training/predict.py --run_dir=runs/A --support=my_classes --images=my_pictures --output=predictions.csv``.
``--support`` has one folder per class with a few pictures in it, as many as you have: the classes may be others and
more or fewer than in training. The folder of the run is all that is needed of it. Beside the table a page shows the
pictures with their answers, least certain first.
"""

import csv
import io
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from few_shot_nas.errors import InputError
from few_shot_nas.whole_file import write_text
from training.class_tables import user_class
from training.exits import OneLineParser, guarded, output_file


class Answers(NamedTuple):
    """What a model says of pictures.

    Attributes:
        class_names: the N classes, in the order of the columns.
        names: of the Q pictures that could be read, relative to their folder.
        probabilities: ``[Q][N]``.
    """

    class_names: list[str]
    names: list[str]
    probabilities: list[list[float]]

    def prediction(self, row: int) -> str:
        """Return the most probable class of a picture."""
        scores = self.probabilities[row]
        return self.class_names[scores.index(max(scores))]


def note(line: str) -> None:
    """Write one line for the user that is not an answer."""
    print(line, file=sys.stderr, flush=True)


def support_files(folder: Path) -> dict[str, list[Path]]:
    """Return class -> its pictures, sorted by name.

    Raises:
        InputError: if there is no folder, fewer than two classes, or a class without a picture.
    """
    from few_shot_nas.data.image_files import SUFFIXES, folder_members, folders_in

    if not folder.is_dir():
        raise InputError(f"--support={folder}: is not a folder; give one that has a folder of pictures for each class")
    classes = {place.name: [file.path for file in folder_members(place)] for place in folders_in(folder)}
    empty = [name for name, files in classes.items() if not files]
    if empty:
        raise InputError(
            f"--support={folder}: no picture in {', '.join(empty)}; every class needs at least one "
            f"({', '.join(SUFFIXES)})"
        )
    if len(classes) < 2:
        raise InputError(f"--support={folder}: has {len(classes)} folders; needed are at least 2, one for each class")
    return classes


def query_files(place: Path) -> list[Path]:
    """Return the pictures anywhere below a folder, sorted, or the one picture; a line names each that is broken.

    Raises:
        InputError: if the place does not exist, or has none that can be read.
    """
    from few_shot_nas.data.image_files import SUFFIXES, content_of, decoded, folder_members

    if not place.exists():
        raise InputError(f"--images={place}: does not exist; give a picture, or a folder that has some anywhere below")
    files = [place] if place.is_file() else [file.path for file in folder_members(place)]
    if not files:
        raise InputError(f"--images={place}: has no pictures ({', '.join(SUFFIXES)})")
    whole = []
    for file in files:
        try:
            decoded(content_of(file), f"{file}:")
            whole.append(file)
        except InputError as error:
            note(f"left out: {error}")
    if not whole:
        raise InputError(f"--images={place}: none of its {len(files)} pictures can be read")
    return whole


def load_learner(run_dir: Path, checkpoint: str | None, model_class: str | None, n_way: int) -> Any:
    """Return the learner for ``n_way`` classes, saying in a line what had to be changed for it.

    Raises:
        InputError: if the folder is not that of a run, or its head has too few outputs.
    """
    from few_shot_nas.loading import load

    own = None if model_class is None else user_class(model_class)
    learner = load(run_dir, checkpoint=checkpoint, n_way=n_way, model_class=own)
    if learner.module.uses_head and n_way < learner.card.n_way:
        note(
            f"note: {n_way} classes and a head that was trained for {learner.card.n_way}: its first {n_way} outputs "
            "are adapted, from where they started in training"
        )
    return learner


def note_sizes(learner: Any, files: Sequence[Path]) -> None:
    """Say in one line how many pictures are resized."""
    from PIL import Image

    from few_shot_nas.data.image_files import FORMATS

    size = learner.inputs.image_size
    others = 0
    for file in files:
        with Image.open(file, formats=FORMATS) as image:
            others += image.size != (size, size)
    if others:
        note(f"note: {others} of {len(files)} pictures are not {size}x{size} pixels and are resized as a whole to that")


def answer(
    learner: Any, classes: dict[str, list[Path]], files: Sequence[Path], names: Sequence[str], bn_mode: str | None
) -> Answers:
    """Adapt to the labelled pictures and classify the others."""
    import torch

    labelled = [file for members in classes.values() for file in members]
    pixels = learner.inputs.pixels([*labelled, *files])
    support, queries = (learner.inputs.normalised(part) for part in (pixels[: len(labelled)], pixels[len(labelled) :]))
    labels = torch.tensor([label for label, members in enumerate(classes.values()) for _ in members])
    probabilities = learner.adapt(support, labels).probabilities(queries, bn_mode).double()
    return Answers(list(classes), list(names), probabilities.tolist())


def check_output(path: Path, class_names: Iterable[str]) -> None:
    """Refuse, before any picture is read, a table that could not be written.

    Raises:
        InputError: if the path is a folder or that of the page, its folder cannot be written to, or a class is called
            as a column of the table is.
    """
    clash = {"image", "prediction"} & set(class_names)
    if clash:
        raise InputError(f"--support: a class is called {clash.pop()}, as a column of the table is; rename its folder")
    if path.suffix == ".html":
        raise InputError(f"--output={path}: is the name of the page beside the table; give one such as predictions.csv")
    output_file(path)


def write_answers(path: Path, answers: Answers) -> None:
    """Write one row per picture: image, prediction, and the probability of each class by name."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image", "prediction", *answers.class_names])
    for row, name in enumerate(answers.names):
        writer.writerow([name, answers.prediction(row), *(f"{value:.6g}" for value in answers.probabilities[row])])
    write_text(path, text.getvalue())


def predict(args: Any) -> None:
    """Classify the pictures, write table and page, and say where they are.

    Args:
        args: the flags.

    Raises:
        InputError: if the run, the pictures or a flag do not fit.
    """
    classes = support_files(args.support)
    check_output(args.output, classes)
    files = query_files(args.images)

    from few_shot_nas.report import write_contact_sheet

    learner = load_learner(args.run_dir, args.checkpoint, args.model_class, len(classes))
    root = args.images if args.images.is_dir() else args.images.parent
    names = [file.relative_to(root).as_posix() for file in files]
    answers = answer(learner, classes, files, names, args.bn_mode)
    note_sizes(learner, [*(file for members in classes.values() for file in members), *files])
    write_answers(args.output, answers)
    mode = args.bn_mode or learner.bn_mode
    about = {
        "model": f"{learner.card.algorithm}, {learner.card.model_class}, trained on {learner.card.data_class}",
        "labelled": ", ".join(f"{name} {len(members)}" for name, members in classes.items()),
        "normalisation": f"{mode}: {'all pictures together' if mode == 'transductive' else 'each picture by itself'}",
    }
    page = write_contact_sheet(args.output.with_suffix(".html"), files, answers, about, upright=learner.inputs.upright)
    counts = {name: sum(answers.prediction(row) == name for row in range(len(files))) for name in classes}
    print(", ".join(f"{name} {count}" for name, count in counts.items()))
    print(f"{len(files)} pictures: {args.output}, {page}", flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; 0, or SystemExit with code 2 after one line for a mistake of the user."""
    parser = OneLineParser(prog="predict.py", description=__doc__, allow_abbrev=False)
    parser.add_argument("--run_dir", type=Path, required=True, help="folder of the run, or its model.safetensors alone")
    parser.add_argument("--support", type=Path, required=True, help="folder with one folder of pictures for each class")
    parser.add_argument("--images", type=Path, required=True, help="picture, or folder of pictures, to classify")
    text = "the table; a page of the same name lies beside it"
    parser.add_argument("--output", type=Path, default=Path("predictions.csv"), help=text)
    text = "what normalises the pictures: support (default) and running judge each by itself, transductive all together"
    parser.add_argument("--bn_mode", help=text)
    parser.add_argument("--checkpoint", help="best, last or a path; default the one that the run itself tested")
    parser.add_argument("--model_class", help="dotted path of a network of your own that the run was trained with")
    args = parser.parse_args(sys.argv[1:] if argv is None else argv)
    return guarded(lambda: predict(args))


if __name__ == "__main__":
    sys.exit(main())

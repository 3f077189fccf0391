"""Write the embedding network of a run as a file that needs neither this framework nor Lightning.

``python training/export.py --run_dir=runs/A --support=my_classes --format=onnx --output=embedding.onnx``. What is
exported is what has a meaning without adaptation: the body, from normalised images to features. A network that
normalises by the images of a task needs ``--support``, one folder of pictures per class, whose statistics are frozen
into it; one with running statistics does without. The file says how its inputs are read. Its output is compared with
the network's before it is kept.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from few_shot_nas.errors import InputError
from few_shot_nas.whole_file import replacing
from training.class_tables import user_class
from training.exits import OneLineParser, guarded, output_file
from training.predict import support_files

SUFFIX = {"onnx": ".onnx", "torch": ".pt2"}
#: Name of the description among the metadata of an ONNX file and the extra files of a PyTorch one.
KEY = "few_shot_nas.json"
#: Largest difference between the features of the file and of the network, relative to the largest feature.
TOLERANCE = 1e-4


def embedding_of(learner: Any, classes: dict[str, list[Path]]) -> Any:
    """Return the body of a learner as a module from images ``[B, C, H, W]`` to features ``[B, D]``.

    Raises:
        InputError: if its normalisation needs images and there are none.
    """
    from few_shot_nas.nn.frozen import Embedding

    files = [file for members in classes.values() for file in members]
    try:
        # A search runs the architecture that it has found.
        inputs = {} if learner.module.genotype is None else {"genotype": learner.module.genotype}
        return Embedding(learner.module.net, learner.inputs.read(files) if files else None, **inputs).eval()
    except ValueError as error:
        raise InputError(f"{error}; give --support, a folder with one folder of pictures for each class") from error


def description(learner: Any, classes: dict[str, list[Path]], features: int) -> dict[str, Any]:
    """Return what a user of the file must know, as JSON values."""
    card = learner.card
    return {
        "algorithm": card.algorithm,
        "model_class": card.model_class,
        "data_class": card.data_class,
        "n_way": card.n_way,
        "meta_step": card.meta_step,
        "inputs": card.inputs,
        "normalisation": "support" if classes else "running",
        "class_names": list(classes),
        "features": features,
    }


def write_onnx(path: Path, embedding: Any, example: Any, about: dict[str, Any]) -> None:
    """Write and check an ONNX file.

    Raises:
        InputError: if onnx, onnxscript or onnxruntime are not installed.
        RuntimeError: if its features are not the network's.
    """
    import torch

    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"--format=onnx: {error.name} is not installed; pip install onnx onnxscript onnxruntime"
        ) from error
    with replacing(path) as part:
        batch = {"images": {0: torch.export.Dim("batch", min=1)}}  # the number of images stays open
        program = torch.onnx.export(
            embedding, (example,), input_names=["images"], output_names=["features"], dynamic_shapes=batch, dynamo=True,
            verbose=False,
        )  # fmt: skip
        if program is None:
            raise RuntimeError("torch.onnx.export gave no program")
        model = program.model_proto
        entry = model.metadata_props.add()
        entry.key, entry.value = KEY, json.dumps(about)
        onnx.save(model, str(part))
        session = onnxruntime.InferenceSession(str(part), providers=["CPUExecutionProvider"])
        for images in (example, example[:1]):
            (features,) = session.run(None, {"images": images.numpy()})
            check_same(torch.from_numpy(features), embedding, images)


def write_torch(path: Path, embedding: Any, example: Any, about: dict[str, Any]) -> None:
    """Write and check a file of ``torch.export``; ``torch.export.load(path).module()`` gives the function again."""
    import torch

    with replacing(path) as part:
        named = part.with_suffix(".pt2")  # torch.export.save() wants this ending
        batch = {"images": {0: torch.export.Dim("batch", min=1)}}  # the number of images stays open
        program = torch.export.export(embedding, (example,), dynamic_shapes=batch)
        torch.export.save(program, named, extra_files={KEY: json.dumps(about)})
        named.rename(part)
        with part.open("rb") as stream:
            loaded = torch.export.load(stream).module()
        for images in (example, example[:1]):
            check_same(loaded(images), embedding, images)


def check_same(features: Any, embedding: Any, images: Any) -> None:
    """Raise RuntimeError where the features of a file are not those of the network."""
    import torch

    with torch.no_grad():
        wanted = embedding(images)
        worst = float((features - wanted).abs().max() / wanted.abs().max().clamp(min=1e-12))
    if not worst <= TOLERANCE:
        raise RuntimeError(f"the exported network differs from the one at hand by {worst:.1e} of its largest feature")


def export(args: Any) -> None:
    """Write the file and say what it holds.

    Args:
        args: the flags.

    Raises:
        InputError: if the run or the pictures do not fit.
    """
    classes = {} if args.support is None else support_files(args.support)
    if args.output is not None:
        output_file(args.output)

    import torch

    from few_shot_nas.loading import load

    model_class = None if args.model_class is None else user_class(args.model_class)
    learner = load(args.run_dir, checkpoint=args.checkpoint, model_class=model_class)
    embedding = embedding_of(learner, classes)
    size = learner.inputs.image_size
    example = torch.randn(3, learner.inputs.channels, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        features = embedding(example).shape[1]
    folder = args.run_dir if args.run_dir.is_dir() else args.run_dir.parent
    path = args.output or output_file(folder / f"embedding{SUFFIX[args.format]}", "--run_dir")
    about = description(learner, classes, features)
    (write_onnx if args.format == "onnx" else write_torch)(path, embedding, example, about)
    shape = f"[B, {learner.inputs.channels}, {size}, {size}]"
    print(f"{path}: images {shape} to features [B, {features}], compared with the network")
    print(f"inputs: {json.dumps(learner.inputs.to_dict())}", flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; 0, or SystemExit with code 2 after one line for a mistake of the user."""
    parser = OneLineParser(prog="export.py", description=__doc__, allow_abbrev=False)
    parser.add_argument("--run_dir", type=Path, required=True, help="folder of the run, or its model.safetensors alone")
    parser.add_argument("--format", choices=sorted(SUFFIX), default="onnx", help="onnx, or torch for torch.export")
    text = "folder with one folder of pictures for each class; their statistics normalise the images"
    parser.add_argument("--support", type=Path, help=text)
    parser.add_argument("--output", type=Path, help="the file; default embedding.onnx or .pt2 in the run's folder")
    parser.add_argument("--checkpoint", help="best, last or a path; default the one that the run itself tested")
    parser.add_argument("--model_class", help="dotted path of a network of your own that the run was trained with")
    args = parser.parse_args(sys.argv[1:] if argv is None else argv)
    return guarded(lambda: export(args))


if __name__ == "__main__":
    sys.exit(main())

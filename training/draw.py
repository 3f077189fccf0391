"""Draw random architectures of a space as genotype files: what a searched architecture is to be compared with.

``python training/draw.py --like=runs/search --count=8 --output=genotypes`` takes space and sizes from what a search
found, which is not drawn itself; or give ``--space --channels --cells --nodes``. The draws are uniform over the
decisions of the space, all different, and a function of the seed alone: number 3 of 8 is number 3 of 100. Each file
``random_N.json`` is a ``--genotype`` of run_experiment.py.
"""

import sys
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from few_shot_nas.errors import InputError
from few_shot_nas.ranges import Cells, Count, Nodes, Seed, Ways, Width
from training.exits import OneLineParser, guarded, output_folder

if TYPE_CHECKING:
    from few_shot_nas.spaces.genotype import Genotype
    from few_shot_nas.spaces.space import SearchSpace


def space_given(args: Namespace) -> "tuple[SearchSpace, Genotype | None]":
    """Return the space of the flags, and the architecture that it was read from.

    Raises:
        InputError: if it is given twice or not at all, or ``--like`` has no genotype.
    """
    from few_shot_nas.registry import lookup
    from few_shot_nas.spaces import SPACES
    from few_shot_nas.spaces.genotype import Genotype
    from few_shot_nas.spaces.supernet import space_of

    given = {name: getattr(args, name) for name in ("channels", "cells", "nodes")}
    sizes = {name: size for name, size in given.items() if size is not None}
    if (args.like is None) == (args.space is None) or (args.like is not None and sizes):
        raise InputError(
            "draw: give either --like=RUN, whose genotype says the space and its sizes, or --space=NAME with "
            "--channels, --cells and --nodes where its own are not meant"
        )
    if args.like is not None:
        genotype = Genotype.load(args.like / "genotype.json" if args.like.is_dir() else args.like)
        return space_of(genotype), genotype
    return lookup(SPACES, args.space, "--space")(**sizes), None


def drawn(space: "SearchSpace", seed: int, taken: "Sequence[Genotype]" = ()) -> "Iterator[Genotype]":
    """Yield different architectures of a space, uniform among those that are not ``taken``; all of them in the end."""
    from few_shot_nas.seeding import generator

    stream, seen = generator(seed, "draw", space.name), {space.encode(genotype) for genotype in taken}
    while len(seen) < space.size():
        decisions = space.sample(stream)
        if decisions not in seen:
            seen.add(decisions)
            yield space.decode(decisions)


#: Architectures in a row that may be too large before a search for smaller ones ends.
PATIENCE = 1000


def those_that_fit(genotypes: "Iterable[Genotype]", fits: "Callable[[Genotype], bool]") -> "Iterator[Genotype]":
    """Yield the architectures that fit, until PATIENCE in a row do not."""
    in_a_row = 0
    for genotype in genotypes:
        in_a_row = 0 if fits(genotype) else in_a_row + 1
        if in_a_row == 0:
            yield genotype
        elif in_a_row == PATIENCE:
            return


def small_enough(space: "SearchSpace", args: Namespace) -> "Callable[[Genotype], bool]":
    """Return whether the network of an architecture has at most ``--max_params`` parameters, as a function."""
    from few_shot_nas.spaces.op_costs import OpCosts

    costs = OpCosts(space, args.n_way, args.in_channels, args.image_size)
    return lambda genotype: args.max_params is None or costs.cost(genotype).params <= args.max_params


def draw(args: Namespace) -> None:
    """Draw, write and print one line for each file.

    Raises:
        InputError: if the space is not given, has too few architectures, or nothing can be written.
    """
    space, like = space_given(args)
    taken = [] if like is None else [like]
    if args.count > space.size() - len(taken):
        raise InputError(
            f"draw: --count={args.count} given, space {space.name} of these sizes has {space.size() - len(taken)} "
            "others; draw fewer"
        )
    output_folder(args.output)
    found = list(islice(those_that_fit(drawn(space, args.seed, taken), small_enough(space, args)), args.count))
    if len(found) < args.count:
        raise InputError(
            f"draw: {len(found)} architectures of at most --max_params={args.max_params} parameters were found, but "
            f"--count={args.count} given; allow more parameters, or take fewer channels"
        )
    for number, genotype in enumerate(found):
        path = args.output / f"random_{number}.json"
        genotype.save(path)
        print(path)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; 0, or SystemExit with code 2 after one line for a mistake of the user."""
    parser = OneLineParser(prog="draw.py", description=__doc__, allow_abbrev=False)
    add = parser.add_argument
    add("--like", type=Path, help="a run, or a genotype.json, whose space and sizes are taken")
    add("--space", help="name of a space")
    add("--channels", type=Width, help="channels of the first cell; default the space's own")
    add("--cells", type=Cells, help="number of cells or layers; default the space's own")
    add("--nodes", type=Nodes, help="intermediate nodes per cell; default the space's own")
    add("--count", type=Count, default=8, help="number of architectures")
    add("--max_params", type=Count, help="draw among networks of at most so many parameters")
    add("--n_way", type=Ways, default=5, help="classes of the network whose parameters are counted")
    add("--in_channels", type=Count, default=3, help="channels of its images")
    add("--image_size", type=Count, default=84, help="height and width of its images")
    add("--seed", type=Seed, default=0, help="of the draws")
    add("--output", type=Path, required=True, help="folder for random_0.json, random_1.json, ..")
    args = parser.parse_args(sys.argv[1:] if argv is None else argv)
    return guarded(lambda: draw(args))


if __name__ == "__main__":
    sys.exit(main())

"""Picture of an architecture: one graph per cell type, ops as labels on the edges, coloured by what they do.

Coordinates are inches throughout: the figure is made as large as the graph, so that text has a size in the same unit.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import networkx as nx
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch
from matplotlib.path import Path
from matplotlib.transforms import Bbox

from few_shot_nas.report.curves import BLUE, INK, ORANGE, PAPER, RED, TEAL, style, to_svg
from few_shot_nas.spaces.genotype import Edge, Genotype

# Part of an op's name -> (colour, kind); the first that fits wins.
_KINDS = {
    "pool": (ORANGE, "pooling"),
    "skip": (TEAL, "skip"),
    "none": (RED, "none"),
    "": (BLUE, "convolution"),
}
_OUTPUT = "out"
_COLUMN, _ROW = 2.1, 1.15
# How far an edge's middle may be moved sideways, best first; and how close it may come to a node it does not touch.
_BENDS = (0.0, 0.3, -0.3, 0.55, -0.55, 0.85, -0.85, 1.2, -1.2, 1.6, -1.6)
_CLEARANCE = 0.42
# Places along an edge where its label may go, best first.
_FRACTIONS = (0.5, 0.45, 0.55, 0.4, 0.6, 0.35, 0.65, 0.3, 0.7, 0.25, 0.75)


@dataclass(frozen=True)
class Route:
    """A drawn edge: a quadratic Bezier curve.

    Attributes:
        src: name of the node it leaves.
        dst: name of the node it enters.
        op: the op; empty for an edge into the output, which only concatenates.
        points: start, control point and end, ``[3, 2]``.
    """

    src: str
    dst: str
    op: str
    points: np.ndarray

    def at(self, fraction: np.ndarray | float) -> np.ndarray:
        """Return points of the curve, ``[..., 2]`` for fractions ``[...]`` of its parameter."""
        t = np.asarray(fraction)[..., None]
        return (1 - t) ** 2 * self.points[0] + 2 * t * (1 - t) * self.points[1] + t**2 * self.points[2]


def op_kind(op: str) -> tuple[str, str]:
    """Return (colour, kind) of an op by its name."""
    return next(kind for part, kind in _KINDS.items() if part in op)


def is_chain(edges: Sequence[Edge]) -> bool:
    """Return whether the edges are 0 -> 1 -> 2 ..: a chain of layers, not a cell with two inputs."""
    return all((edge.src, edge.dst) == (index, index + 1) for index, edge in enumerate(edges))


def cell_graph(edges: Sequence[Edge]) -> nx.MultiDiGraph:
    """Return the graph of one cell type: nodes named for the picture, with their ``layer``; edges with their ``op``.

    A cell has the inputs ``in 0`` and ``in 1`` (states 0 and 1: the outputs of the two cells before), nodes named by
    their state, and an output that concatenates the nodes. A chain has only the states between its layers.
    """
    chain = is_chain(edges)
    inputs = 1 if chain else 2
    last = max(edge.dst for edge in edges)

    def name(state: int) -> str:
        if state < inputs:
            return "in" if chain else f"in {state}"
        return _OUTPUT if chain and state == last else str(state)

    graph = nx.MultiDiGraph()
    graph.add_nodes_from(name(state) for state in range(last + 1))
    graph.add_edges_from((name(edge.src), name(edge.dst), {"op": edge.op}) for edge in edges)
    if not chain:
        graph.add_edges_from((name(state), _OUTPUT, {"op": ""}) for state in range(inputs, last + 1))
    for node in nx.topological_sort(graph):
        before = [graph.nodes[src]["layer"] for src in graph.predecessors(node)]
        graph.nodes[node]["layer"] = max(before, default=-1) + 1
    return graph


def positions(graph: nx.MultiDiGraph) -> dict[str, np.ndarray]:
    """Return the place of each node: layers from left to right, nodes of a layer from top to bottom.

    As networkx's multipartite layout, but with room for labels, nodes in the order of their names, and single nodes of
    successive layers moved up and down in turn: on one line, long edges would run through them.
    """
    straight = graph.number_of_edges() < graph.number_of_nodes()
    places = {}
    for layer, nodes in nx.utils.groups(dict(graph.nodes(data="layer"))).items():
        for row, node in enumerate(sorted(nodes)):
            height = ((len(nodes) - 1) / 2 - row) * _ROW * (2 if layer == 0 else 1)
            if len(nodes) == 1 and node != _OUTPUT and not straight:
                height = 0.5 * _ROW if layer % 2 else -0.5 * _ROW
            places[node] = np.array([layer * _COLUMN, height])
    return places


def routes(graph: nx.MultiDiGraph, places: dict[str, np.ndarray]) -> Iterator[Route]:
    """Yield the edges as curves that keep away from the nodes between their ends, the straightest that does."""
    parallels: dict[tuple[str, str], int] = {}
    for src, dst, op in graph.edges(data="op"):
        # A second edge between the same two nodes must not lie on the first.
        rank = parallels[src, dst] = parallels.get((src, dst), -1) + 1
        start, end = places[src], places[dst]
        along = end - start
        across = np.array([-along[1], along[0]]) / np.hypot(*along)
        strangers = [place for node, place in places.items() if node not in (src, dst)]
        tried = []
        for bend in _BENDS[1:] if rank else _BENDS:
            # The curve passes halfway between the middle of its ends and its control point.
            control = (start + end) / 2 + 2 * bend * (1 + rank) * across
            route = Route(src, dst, op, np.stack([start, control, end]))
            gap = min((_distance(route, place) for place in strangers), default=np.inf)
            tried.append((min(gap, _CLEARANCE), -abs(bend), route))
        yield max(tried, key=lambda candidate: candidate[:2])[2]


def _distance(route: Route, place: np.ndarray) -> float:
    return float(np.hypot(*(route.at(np.linspace(0, 1, 33)) - place).T).min())


def _visible(route: Route) -> np.ndarray:
    """Return the part of the curve between the boxes of its two nodes, ``[points, 2]``."""
    points = route.at(np.linspace(0, 1, 129))
    inside = [
        (np.abs(points - place) < _half_size(node) + 0.04).all(axis=1)
        for node, place in ((route.src, route.points[0]), (route.dst, route.points[2]))
    ]
    return points[~(inside[0] | inside[1])]


def _half_size(node: str) -> np.ndarray:
    """Return half the width and height of a node's box; digits and small letters are about equally wide."""
    return np.array([0.07 + 0.034 * len(node), 0.135])


def label_boxes(drawn: Sequence[Route], places: dict[str, np.ndarray], sizes: dict[str, np.ndarray]) -> list[Bbox]:
    """Choose a place for the label of every edge that has an op.

    Args:
        drawn: the edges.
        places: the nodes.
        sizes: op -> width and height of its label.

    Returns:
        One box per edge with an op, in order; they overlap neither each other nor a node as long as there is room.
    """
    taken = [Bbox([place - _half_size(node), place + _half_size(node)]) for node, place in places.items()]
    chosen = []
    for route in drawn:
        if not route.op:
            continue
        others = [other.at(np.linspace(0, 1, 65)) for other in drawn if other is not route]
        strangers = np.concatenate([np.empty((0, 2)), *others])
        candidates = []
        for preference, fraction in enumerate(_FRACTIONS):
            centre = route.at(fraction)
            box = Bbox([centre - sizes[route.op] / 2, centre + sizes[route.op] / 2])
            # A label that hides another edge would seem to belong to it.
            hidden = int((np.abs(strangers - centre) < sizes[route.op] / 2).all(axis=1).sum())
            candidates.append((sum(_shared_area(box, other) for other in taken), hidden, preference, box))
        chosen.append(min(candidates, key=lambda candidate: candidate[:3])[3])
        taken.append(chosen[-1])
    return chosen


def _shared_area(one: Bbox, other: Bbox) -> float:
    shared = Bbox.intersection(one, other)
    return 0.0 if shared is None else float(shared.width * shared.height)


def _label_sizes(figure: Figure, axes: Axes, ops: Sequence[str]) -> dict[str, np.ndarray]:
    """Measure the labels, with the padding of their boxes."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    sizes = {}
    for op in ops:
        text = axes.text(0, 0, op, fontsize=8.5)
        extent = text.get_window_extent(renderer)
        text.remove()
        sizes[op] = np.array([extent.width, extent.height]) / figure.dpi + np.array([0.14, 0.09])
    return sizes


def draw_cell(edges: Sequence[Edge]) -> Figure:
    """Draw the graph of one cell type."""
    graph = cell_graph(edges)
    places = positions(graph)
    drawn = list(routes(graph, places))
    corners = np.concatenate([route.at(np.linspace(0, 1, 33)) for route in drawn])
    low, high = corners.min(axis=0) - [0.45, 0.32], corners.max(axis=0) + [0.45, 0.32]
    figure = Figure(figsize=tuple(high - low))
    axes = figure.add_axes((0, 0, 1, 1), xlim=(low[0], high[0]), ylim=(low[1], high[1]))
    axes.axis("off")
    for route in drawn:
        arrow = FancyArrowPatch(path=Path(_visible(route)), arrowstyle="-|>", mutation_scale=9, zorder=1)
        arrow.set(color=op_kind(route.op)[0] if route.op else INK, linewidth=1.6 if route.op else 0.9)
        arrow.set_alpha(None if route.op else 0.35)
        axes.add_patch(arrow)
    labelled = [route for route in drawn if route.op]
    sizes = _label_sizes(figure, axes, [route.op for route in labelled])
    for route, box in zip(labelled, label_boxes(drawn, places, sizes), strict=True):
        centre = ((box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2)
        frame = {"boxstyle": "round,pad=0.3", "facecolor": PAPER, "edgecolor": op_kind(route.op)[0], "linewidth": 0.8}
        axes.text(*centre, route.op, ha="center", va="center", fontsize=8.5, bbox=frame, zorder=2)
    for node, place in places.items():
        frame = {"boxstyle": "round,pad=0.42", "facecolor": PAPER, "edgecolor": INK, "linewidth": 1.0}
        axes.text(place[0], place[1], node, ha="center", va="center", fontsize=9.5, bbox=frame, zorder=3)
    return figure


def genotype_pictures(genotype: Genotype, owner: str) -> list[tuple[str, Markup]]:
    """Return (cell type, picture) for each cell type that has edges; ``owner`` says in the title whose they are."""
    with style():
        return [
            (cell_type, to_svg(draw_cell(edges), f"Architecture of {owner}, {cell_type} cell"))
            for cell_type, edges in genotype.edges
            if edges
        ]


def kinds_used(genotype: Genotype) -> list[tuple[str, str]]:
    """Return (colour, kind) of the ops that occur, for a legend."""
    return sorted({op_kind(edge.op) for _, edges in genotype.edges for edge in edges}, key=lambda kind: kind[1])

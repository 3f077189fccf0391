"""The picture of an architecture. Truth: geometry by brute force over random genotypes of both spaces."""

import itertools
import random

import networkx as nx
import numpy as np
import pytest
from matplotlib.transforms import Bbox

from few_shot_nas.report.curves import style
from few_shot_nas.report.genotype_picture import (
    cell_graph,
    draw_cell,
    genotype_pictures,
    is_chain,
    kinds_used,
    op_kind,
    positions,
    routes,
)
from few_shot_nas.spaces.genotype import Edge, Genotype

OPS = ("skip_connect", "sep_conv_3x3", "dil_conv_3x3", "avg_pool_3x3BN", "max_pool_3x3BN", "conv_1x5_5x1", "conv_3x3")


def random_cell(seed: int, nodes: int = 3) -> list[Edge]:
    rng = random.Random(seed)
    return [
        Edge(rng.choice(OPS), src, dst) for dst in range(2, nodes + 2) for src in sorted(rng.sample(range(dst), 2))
    ]


def overlap(one: Bbox, other: Bbox) -> float:
    shared = Bbox.intersection(one, other)
    return 0.0 if shared is None else shared.width * shared.height


def test_every_edge_and_state_of_a_cell_is_in_the_graph() -> None:
    edges = random_cell(0)
    graph = cell_graph(edges)
    assert set(graph) == {"in 0", "in 1", "2", "3", "4", "out"}
    named = {0: "in 0", 1: "in 1", 2: "2", 3: "3", 4: "4"}
    drawn = sorted((src, dst, op) for src, dst, op in graph.edges(data="op") if op)
    assert drawn == sorted((named[edge.src], named[edge.dst], edge.op) for edge in edges)
    assert set(graph.predecessors("out")) == {"2", "3", "4"}


def test_a_chain_ends_with_its_last_layer() -> None:
    edges = [Edge("conv_k3", 0, 1), Edge("sep_k3", 1, 2)]
    assert is_chain(edges)
    assert list(cell_graph(edges).edges(data="op")) == [("in", "1", "conv_k3"), ("1", "out", "sep_k3")]


@pytest.mark.parametrize("seed", range(20))
def test_edges_go_from_left_to_right(seed: int) -> None:
    graph = cell_graph(random_cell(seed))
    places = positions(graph)
    assert nx.is_directed_acyclic_graph(graph)
    assert all(places[src][0] < places[dst][0] for src, dst in graph.edges())
    assert len({tuple(place) for place in places.values()}) == len(places)


@pytest.mark.parametrize("seed", range(20))
def test_no_edge_runs_through_a_node_it_does_not_touch(seed: int) -> None:
    graph = cell_graph(random_cell(seed))
    places = positions(graph)
    for route in routes(graph, places):
        points = route.at(np.linspace(0, 1, 200))
        for node, place in places.items():
            if node not in (route.src, route.dst):
                assert np.hypot(*(points - place).T).min() > 0.2, (route.src, route.dst, node)


@pytest.mark.parametrize("seed", range(12))
def test_labels_overlap_neither_each_other_nor_a_node(seed: int) -> None:
    with style():
        figure = draw_cell(random_cell(seed))
        renderer = figure.canvas.get_renderer()
        boxes = [text.get_window_extent(renderer) for text in figure.axes[0].texts]
    edge = figure.bbox
    assert len(boxes) == 6 + 6
    for box in boxes:
        assert edge.x0 <= box.x0 and box.x1 <= edge.x1 and edge.y0 <= box.y0 and box.y1 <= edge.y1
    for one, other in itertools.combinations(boxes, 2):
        assert overlap(one, other) == 0.0


def test_two_edges_between_the_same_nodes_are_drawn_apart() -> None:
    graph = cell_graph([Edge("conv_3x3", 0, 2), Edge("skip_connect", 0, 2)])
    one, other = (route for route in routes(graph, positions(graph)) if route.op)
    assert np.hypot(*(one.at(0.5) - other.at(0.5))) > 0.25


def test_ops_are_coloured_by_kind() -> None:
    kinds = {op: op_kind(op)[1] for op in ("sep_conv_3x3", "max_pool_3x3BN", "skip_connect", "none", "conv_k5")}
    assert kinds == {
        "sep_conv_3x3": "convolution",
        "max_pool_3x3BN": "pooling",
        "skip_connect": "skip",
        "none": "none",
        "conv_k5": "convolution",
    }
    assert len({op_kind(op)[0] for op in kinds}) == 4


def test_there_is_one_picture_per_cell_type() -> None:
    cells = (("normal", tuple(random_cell(1))), ("reduce", tuple(random_cell(2))))
    genotype = Genotype("darts_fewshot", 16, 2, 3, cells)
    assert [cell_type for cell_type, _ in genotype_pictures(genotype, "x")] == ["normal", "reduce"]
    used = {op_kind(edge.op) for _, edges in cells for edge in edges}
    assert set(kinds_used(genotype)) == used

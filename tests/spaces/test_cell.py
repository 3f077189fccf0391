"""Networks of cells: where they reduce, what size the first cell sees, how states are wired."""

import pytest
import torch

from few_shot_nas.errors import InputError
from few_shot_nas.nn.norm import BatchNorm2d
from few_shot_nas.spaces.cell import Cell, reductions
from few_shot_nas.spaces.darts_fewshot import DartsFewshot
from few_shot_nas.spaces.genotype import Edge
from few_shot_nas.spaces.space import genotype_menu


def derived_body(cells=2, nodes=1, channels=4, in_channels=1, image_size=28, op=0):
    space = DartsFewshot(channels, cells, nodes)
    genotype = space.decode([0 if d.kind == "inputs" else op for d in space.decisions])
    return space.body(in_channels, image_size, genotype_menu(genotype)), genotype


@pytest.mark.parametrize(
    ("cells", "expected"),
    [(1, {0}), (2, {1}), (3, {1, 2}), (4, {1, 2}), (5, {1, 3}), (6, {2, 4}), (8, {2, 5}), (20, {6, 13})],
)
def test_reduction_cells_stand_at_one_and_two_thirds(cells, expected):
    assert reductions(cells) == expected


@pytest.mark.parametrize(
    ("image_size", "first_cell"), [(84, 21), (42, 21), (28, 14), (21, 21), (32, 16), (105, 13), (80, 20)]
)
def test_the_stem_pools_until_the_first_cell_sees_at_most_21_pixels(image_size, first_cell):
    body, _ = derived_body(image_size=image_size)
    assert body.stem(torch.randn(2, 1, image_size, image_size)).shape == (2, 4, first_cell, first_cell)


@pytest.mark.parametrize("image_size", [42, 84, 80])
def test_the_stem_computes_what_its_layers_compute_one_after_the_other(image_size):
    body, _ = derived_body(image_size=image_size)
    stem, x = body.stem.double(), torch.randn(2, 1, image_size, image_size, dtype=torch.float64)
    for layer in stem:
        if isinstance(layer, BatchNorm2d):
            torch.nn.init.normal_(layer.weight)
    torch.testing.assert_close(stem(x), torch.nn.Sequential(*stem)(x), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("cells", [1, 2, 3, 4, 5])
def test_sizes_halve_and_channels_double_at_each_reduction(cells):
    body, genotype = derived_body(cells=cells, nodes=2)
    shapes = []
    hooks = [cell.register_forward_hook(lambda *call: shapes.append(tuple(call[2].shape))) for cell in body.cells]
    features = body(torch.randn(2, 1, 28, 28), genotype)
    size, channels = 14, 4
    for index, shape in enumerate(shapes):
        if index in reductions(cells):
            size, channels = -(-size // 2), 2 * channels
        assert shape == (2, 2 * channels, size, size)
    assert len(hooks) == len(shapes) == cells
    assert features.shape == (2, body.feature_dim) == (2, 2 * channels)


def test_a_node_sums_its_two_edges_and_the_output_concatenates_the_nodes():
    edges = tuple(
        Edge(op, src, dst)
        for op, src, dst in [
            ("skip_connect", 0, 2),
            ("skip_connect", 1, 2),
            ("max_pool_3x3", 0, 3),
            ("skip_connect", 2, 3),
        ]
    )
    cell = Cell(5, 6, 4, 2, False, False, {(edge.src, edge.dst): (edge.op,) for edge in edges})
    before, last = torch.randn(2, 5, 7, 7), torch.randn(2, 6, 7, 7)
    first, second = cell.pre0(before), cell.pre1(last)
    node = first + second
    expected = torch.cat((node, torch.nn.functional.max_pool2d(first, 3, 1, 1) + node), dim=1)
    assert torch.equal(cell(before, last, edges), expected)


def test_a_reduction_cell_halves_only_its_inputs():
    edges = (Edge("conv_3x3", 0, 2), Edge("conv_3x3", 1, 2), Edge("conv_3x3", 0, 3), Edge("conv_3x3", 2, 3))
    cell = Cell(4, 4, 4, 2, True, False, {(edge.src, edge.dst): (edge.op,) for edge in edges})
    strides = {key: ops["conv_3x3"][1].stride for key, ops in cell.edges.items()}
    assert strides == {"0_2": (2, 2), "1_2": (2, 2), "0_3": (2, 2), "2_3": (1, 1)}


def test_too_small_images_are_refused():
    with pytest.raises(InputError, match="image_size=7"):
        derived_body(image_size=7)

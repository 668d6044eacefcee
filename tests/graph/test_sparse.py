"""Sparse matrices, as graphs are given: what they multiply loses channels, they themselves stay as they are."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.graph.nets import net, shrinks
from torchpare.graph import analyse

LAYOUTS = {"coordinates": torch.Tensor.to_sparse, "rows": torch.Tensor.to_sparse_csr}


def features():
    return torch.randn(5, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def adjacency(layout):
    dense = (torch.arange(25).reshape(5, 5) % 3 == 0).double()
    return LAYOUTS[layout](dense)


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta state")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_graph_that_is_given_as_a_sparse_matrix(layout):
    model = net(
        lambda m, x, graph: m.b(torch.relu(torch.sparse.mm(graph, m.a(x)))), a=nn.Linear(4, 6), b=nn.Linear(6, 2)
    )
    inputs = (features(), adjacency(layout))
    assert not analyse(model, inputs).unknown
    space = analyse(model, inputs)
    assert (space.channels("a").classes != 0).all()


def test_a_graph_that_the_model_keeps_as_a_buffer():
    def run(m, x):
        return m.b(torch.relu(torch.sparse.addmm(m.c(x), m.graph, m.a(x))))

    model = net(run, a=nn.Linear(4, 6), c=nn.Linear(4, 6), b=nn.Linear(6, 2))
    model.register_buffer("graph", adjacency("coordinates"))
    dropped = {"a": [0, 4], "c": [0, 4]}
    assert shrinks(model, features(), dropped, expect={"a": (4, 4), "c": (4, 4), "b": (2, 4)}).exact
    assert model.graph.shape == (5, 5)


def test_a_graph_that_the_model_makes_of_its_edges():
    def run(m, x, edges):
        graph = torch.sparse_coo_tensor(edges, x.new_ones(edges.shape[1]), (len(x), len(x)))
        return m.b(torch.relu(torch.sparse.mm(graph, m.a(x))))

    model = net(run, a=nn.Linear(4, 6), b=nn.Linear(6, 2))
    inputs = (features(), torch.tensor([[0, 1, 3], [2, 2, 4]]))
    space = analyse(model, inputs)
    assert not space.unknown
    assert (space.channels("a").classes != 0).all()

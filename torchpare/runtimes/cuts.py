"""A program taken apart where it rounds, as one graph: for runtimes that take graphs and no ONNX file.

At every site what the program makes of the inputs before it becomes a result, and in its place an input goes on: one
program holds all parts side by side, each on its own inputs, and is compiled once. What goes in and comes out are the
values of integers, as floats, as in any program: runtimes compile integers at the border worse, or not at all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor, fx
from torch.utils import _pytree as pytree

from torchpare.runtimes.operators import library
from torchpare.runtimes.program import Site
from torchpare.runtimes.protocol import Runner

__all__ = ["apart", "run_cut", "watched"]


def apart(module: fx.GraphModule, sites: Sequence[Site]) -> tuple[fx.GraphModule, list[Site]]:
    """All parts of a program side by side.

    Every reader of a site gets an input of its own: parts then share nothing, and a runtime that lays out a tensor for
    one of them (ExecuTorch does, for convolutions) does not meddle with another.

    Args:
        module: with a quantize node for each site, by the name that the site has for it; stays as it is.
        sites: where to cut.

    Returns:
        a module of the program's inputs, and then of the values at some sites, that returns what each part makes: the
        values at each site, then the program's outputs; and the sites of its inputs.
    """
    graph, copied, leaves = _copied(module)
    results = graph.output((leaves,))
    last = [node for node in graph.nodes if node.op == "placeholder"][-1]
    given: list[Site] = []
    for site in sites:
        for restored in list(copied[site.node].users):
            for reader in list(restored.users):
                with graph.inserting_after(last):
                    last = graph.placeholder(f"given_{len(given)}")
                given.append(site)
                with graph.inserting_before(restored):
                    codes = graph.call_function(copied[site.node].target, (last, *restored.args[1:]))  # type: ignore[arg-type]
                    value = graph.call_function(restored.target, (codes, *restored.args[1:]))  # type: ignore[arg-type]
                reader.replace_input_with(restored, value)
            graph.erase_node(restored)
    leaves = list(results.args[0][0])  # type: ignore[index]
    graph.erase_node(results)
    return _returning(module, graph, [copied[site.node] for site in sites], leaves), given


def watched(module: fx.GraphModule, sites: Sequence[Site]) -> fx.GraphModule:
    """The whole program, which returns the values at each site too, before its outputs."""
    graph, copied, leaves = _copied(module)
    return _returning(module, graph, [copied[site.node] for site in sites], leaves)


def run_cut(
    module: fx.GraphModule,
    sites: Sequence[Site],
    inputs: Sequence[Tensor],
    seen: Mapping[str, Tensor],
    lowered: Callable[[fx.GraphModule, tuple[Tensor, ...]], Runner],
) -> tuple[list[Tensor], list[Tensor]]:
    """What a runtime makes at each site and of each output: each part by itself, and in the whole program.

    Args:
        module: the program in the runtime's own form.
        sites: where the program rounds.
        inputs: of the program.
        seen: the integers at each site by its name: what the parts are run on.
        lowered: compiles a module for inputs like these.

    Returns:
        of both, the integers at each site, then the outputs.
    """

    def run(cut: fx.GraphModule, tensors: list[Tensor]) -> list[Tensor]:
        tensors = [each.contiguous() for each in tensors]  # what attention rounds lies as a view of it does
        made = lowered(cut, tuple(tensors))(tensors)
        codes = [(value / site.step.scale).round().int() + site.step.zero_point
                 for site, value in zip(sites, made, strict=False)]  # fmt: skip
        return [*codes, *made[len(sites) :]]

    parts, given = apart(module, sites)
    values = [(seen[site.name].int() - site.step.zero_point) * site.step.scale for site in given]
    return run(parts, [*inputs, *values]), run(watched(module, sites), [*inputs])


def _copied(module: fx.GraphModule) -> tuple[fx.Graph, dict[str, fx.Node], list[fx.Node]]:
    """A copy of a graph without its output: the graph, its nodes by the names of the old ones, and the outputs."""
    graph, copies = fx.Graph(), {}
    made = graph.graph_copy(module.graph, copies)
    leaves = [leaf for leaf in pytree.tree_leaves(made) if isinstance(leaf, fx.Node)]
    return graph, {old.name: new for old, new in copies.items()}, leaves


def _returning(
    module: fx.GraphModule, graph: fx.Graph, codes: Sequence[fx.Node], leaves: Sequence[fx.Node]
) -> fx.GraphModule:
    restore = library().dequantize_per_tensor.default
    values = [graph.call_function(restore, (each, *each.args[1:])) for each in codes]
    graph.output((*values, *leaves))
    graph.lint()
    return fx.GraphModule(module, graph).eval()

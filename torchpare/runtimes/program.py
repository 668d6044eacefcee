"""The one program behind all runtimes: a model's graph in which quantize and dequantize are operators of their own."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from torchpare.attach import quantizers_of
from torchpare.errors import ConfigError
from torchpare.files.calibration import Calibration
from torchpare.runtimes.account import account
from torchpare.runtimes.asked import check_model, check_names, check_switch
from torchpare.runtimes.bias_correction import KeepsSome, as_it_is, correct_biases
from torchpare.runtimes.biases import with_room
from torchpare.runtimes.calibrate import calibrated_steps, weight_in_eight_bits
from torchpare.runtimes.computed_weights import write_computed_weights
from torchpare.runtimes.configured import configured
from torchpare.runtimes.equal import merge_equal
from torchpare.runtimes.explicit import SITE, FloatPlace, explicit
from torchpare.runtimes.folding import WEIGHTED, fold_norms
from torchpare.runtimes.grouped import Grouped
from torchpare.runtimes.inputs import computed, in_order
from torchpare.runtimes.integers import Step, Stored
from torchpare.runtimes.operators import (
    constant,
    is_dequantize,
    is_quantize,
    owner,
    rounding_nodes,
    step_behind,
)
from torchpare.runtimes.placing import echoes, score_wishes, wishes
from torchpare.runtimes.record import record
from torchpare.runtimes.weight_only import grouped_weights
from torchpare.runtimes.weights import split_biases, write_weights

__all__ = ["FloatPlace", "QuantizedProgram", "Site", "build_program"]


@dataclass(frozen=True)
class Site:
    """A place where the program rounds an activation."""

    name: str
    """The layer and what of it: "conv1.input", "layer1.0.add_1"."""

    node: str
    """The name of the quantize node."""

    step: Step

    added: bool
    """Whether it is not from the model's own quantizers, but was placed and calibrated here."""


@dataclass(frozen=True)
class QuantizedProgram:
    """A model with explicit quantize and dequantize, and an account of what is computed in eight bits."""

    module: fx.GraphModule
    """Called as the model is. Its weights are int8 where they can be; it runs in PyTorch as it is."""

    example: Any
    """The input that it was recorded on."""

    sites: tuple[Site, ...]
    """In the order of execution."""

    integers: tuple[str, ...]
    """The layers that integer kernels can compute: weight, input and, of convolutions, output lie on grids."""

    floats: tuple[FloatPlace, ...]
    """The layers and tensors that stay float, or are stored so, and why."""

    grouped: dict[str, Grouped] = field(default_factory=dict)
    """The weights with a scale for each group of inputs, by the names under which ``module`` reads them: it has their
    values as floats, an ONNX file their integers."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the program computes, in PyTorch."""
        with torch.no_grad():
            return self.module(*args, **kwargs)

    def values(self, example: Any) -> tuple[list[Tensor], dict[str, Tensor]]:
        """What it computes on an input: its outputs, and the integers at each site by the site's name."""
        by_node = {site.node: site.name for site in self.sites}
        seen: dict[str, Tensor] = {}

        class Watch(fx.Interpreter):
            def run_node(self, n: fx.Node) -> Any:
                made = super().run_node(n)
                if n.name in by_node:
                    seen[by_node[n.name]] = made
                return made

        with torch.no_grad():
            made = Watch(self.module).run(*in_order(self.example, computed(example)), enable_io_processing=False)
        return [leaf for leaf in pytree.tree_leaves(made) if isinstance(leaf, Tensor)], seen

    def rebuilt(self, tensors: Sequence[Tensor]) -> Any:
        """Output tensors, as a runtime gives them, in the form in which the model returns them."""
        output = next(node for node in self.module.graph.nodes if node.op == "output")
        given = iter(tensors)
        leaves = [next(given) if isinstance(leaf, fx.Node) else leaf for leaf in pytree.tree_leaves(output.args[0])]
        form: Any = self.module.graph._codegen  # noqa: SLF001 - torch tells it nowhere else
        return pytree.tree_unflatten(leaves, form.pytree_info.out_spec)


def build_program(
    model: nn.Module,
    dummy_input: Any,
    *,
    config: Calibration | str | os.PathLike[str] | None = None,
    calibration: Iterable[Any] | None = None,
    observer: str = "min_max",
    exclude: Sequence[str] = (),
    symmetric: bool = False,
    attention: bool = False,
) -> QuantizedProgram:
    """One explicit program from a quantized model, or from a plain one and a few batches.

    The model stays as it is. What its quantizers learnt is taken over to the bit: weights become int8 at their scales,
    batch norms go into scales and biases, activations are rounded where they were. With ``calibration`` the program
    also rounds where integer kernels need it and no quantizer is: after convolutions, sums, means. Without, a layer
    that lacks this stays float, and ``floats`` says so. Of a model without any quantizer the weights of all
    convolutions, linear layers and tables are quantized too, each output channel or row for itself, and biases make up
    for what that adds to mean results (see `torchpare.runtimes.bias_correction`).

    Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference", CVPR
    2018, section 2; Nagel et al., "A White Paper on Neural Network Quantization", 2021, section 2.3.

    Args:
        model: what to deploy, quantized or not, masked or not. It is computed in float32 and evaluation mode.
        dummy_input: a tensor, a tuple of positional arguments, or a dict of keyword arguments. The batch may vary
            afterwards if the model allows that.
        config: of a plain model, the calibration that a quantizer's ``export_model`` returned or wrote, or NNI's: the
            grids are taken from there. A model that still has its quantizers needs none.
        calibration: batches in the form of ``dummy_input``, such as the model will meet; no labels.
        observer: how the ranges of places that are added are found; see :class:`torchpare.config.QuantEntry`.
        exclude: of a plain model, the layers that stay float, by name.
        symmetric: whether places that are added have zero in the middle of their grids.
        attention: whether ``calibration`` rounds queries and keys too, so that their product is one of integers; the
            product of the shares and the values stays float. OpenVINO is faster then.

    Raises:
        ExportError: the model cannot be recorded as one program, or it or the input has no values.
        QuantizationError: there is no batch in ``calibration``, or values are not finite.
        ConfigError: the model is none, ``exclude`` names no layer, ``calibration`` cannot be gone through or is
            missing where ``attention`` needs it, or the observer is unknown.
    """
    check_model(model)
    check_names(exclude, model, "exclude")
    check_switch(attention, "attention")
    if attention and calibration is None:
        raise ConfigError("attention=True rounds queries and keys on grids that calibration batches tell: give some")
    dummy_input = computed(dummy_input)
    quantized = next(quantizers_of(model), None) is not None
    plain = not quantized and config is None and calibration is not None
    made = explicit(model) if quantized or config is None else configured(model, config, dummy_input)
    module, stored, floats = record(made.module, dummy_input), dict(made.stored), list(made.floats)
    merge_equal(module)
    write_computed_weights(module)
    names = _name_sites(module)
    floats += fold_norms(module, stored)
    grouped, told = grouped_weights(module, made.grouped)
    floats += told
    if plain:
        floats += weight_in_eight_bits(module, stored, exclude)
    kernels = {node for node in module.graph.nodes if _weight_name(module, node) in stored and node.target in WEIGHTED}
    layers, original, batches = list(kernels), as_it_is(module), KeepsSome(() if calibration is None else calibration)
    if calibration is not None:
        wanted, joined = wishes(module, kernels)
        kernels |= joined
        wanted += score_wishes(module, wanted, exclude) if attention else []
        steps = calibrated_steps(module, wanted, dummy_input, batches, observer, symmetric=symmetric)
        for wish, step in zip(wanted, steps, strict=True):
            named = wish.readers or kernels
            readers = [reader for reader in wish.value.users if wish.produced or reader in named]
            codes = _insert(module, wish.value, step, readers, wish.name)
            names[codes.name] = _unused(wish.name, {name for name, _ in names.values()}), True
    if attention:
        _let_attention_lie_otherwise(module)
    for value, origin in echoes(module, kernels):
        name = f"{names[origin.args[0].name][0]} handed on by {value.name}"  # type: ignore[union-attr]
        names[_insert(module, value, step_behind(origin), list(value.users), value.name).name] = name, True
    if plain:
        values = {name: held.value for name, held in stored.items()}
        correct_biases(module, original, values, layers, dummy_input, batches.kept)
    integers, kept = account(module, kernels, grouped, floats)
    _make_room(module, stored, kernels)
    split_biases(module, kernels)
    write_weights(module, stored)
    module.graph.lint()
    finished = fx.GraphModule(module, module.graph)
    sites = tuple(
        Site(names[node.name][0], node.name, step_behind(node), names[node.name][1])
        for node in finished.graph.nodes
        if is_quantize(node)
    )
    return QuantizedProgram(finished.eval(), dummy_input, sites, tuple(integers), (*floats, *kept), grouped)


def _name_sites(module: fx.GraphModule) -> dict[str, tuple[str, bool]]:
    """The sites that come from quantizers: by the quantize node's name, the layer's name and kind; none is added."""
    found: dict[str, tuple[str, bool]] = {}
    for node in module.graph.nodes:
        if is_quantize(node):
            layer, _, kind = owner(node).rpartition(f"{SITE}_")
            found[node.name] = _unused(f"{layer}{kind}", {name for name, _ in found.values()}), False
    return found


def _unused(name: str, taken: set[str]) -> str:
    """A name for a site, with a number where it is taken: by the same layer, called before."""
    return next(each for each in (name, *(f"{name} ({at})" for at in range(2, len(taken) + 3))) if each not in taken)


def _insert(module: fx.GraphModule, value: fx.Node, step: Step, readers: Sequence[fx.Node], name: str) -> fx.Node:
    """Round a value for some of its readers; returns the quantize node."""
    following = value.next
    while value.op == "placeholder" and following.op == "placeholder":
        following = following.next  # inputs come first in a graph
    with module.graph.inserting_before(following):
        rounded = rounding_nodes(module.graph, value, step, name.replace(".", "_"))
    for reader in readers:
        reader.replace_input_with(value, rounded)
    codes = rounded.args[0]
    assert isinstance(codes, fx.Node)
    return codes


def _let_attention_lie_otherwise(module: fx.GraphModule) -> None:
    """Views of what attention returns as reshapes: it lies in memory as its queries do, which rounding changes."""
    for node in module.graph.nodes:
        if node.target is torch.ops.aten.view.default:
            turned: Any = node.args[0]
            before = turned.args[0] if turned.target is torch.ops.aten.permute.default else turned
            if before.target is torch.ops.aten.scaled_dot_product_attention.default:
                node.target = torch.ops.aten.reshape.default


def _make_room(module: fx.GraphModule, stored: dict[str, Stored], kernels: set[fx.Node]) -> None:
    """See `torchpare.runtimes.biases`; a weight that several layers read has to suit them all."""
    for node in module.graph.nodes:
        name = _weight_name(module, node)
        if node not in kernels or name not in stored or len(node.args) < 3 or not is_dequantize(node.args[0]):
            continue
        bias = constant(module, node.args[2])
        if bias is not None:
            stored[name] = with_room(stored[name], bias, step_behind(node.args[0]).scale)


def _weight_name(module: fx.GraphModule, node: fx.Node) -> str | None:
    source = node.args[1] if len(node.args) > 1 else None
    return str(source.target) if isinstance(source, fx.Node) and constant(module, source) is not None else None

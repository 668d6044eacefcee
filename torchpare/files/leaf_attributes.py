"""The sizes that torch's own layers remember beside their parameters, told by the parameters themselves.

A convolution knows `in_channels`, a norm `num_features`: numbers that follow from shapes, and must follow them when a
model becomes smaller. What does not follow from shapes alone (`groups`, `num_groups`, sizes in a user's own modules) is
recorded by whoever changes it.
"""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

__all__ = ["leaf_attributes"]


def leaf_attributes(  # noqa: PLR0911, PLR0912, C901 - a line for each kind
    module: nn.Module,
) -> dict[str, int | tuple[int, ...]]:
    """The size attributes of `module` that follow from the present shapes of its own parameters and buffers.

    Of a convolution they follow from its `groups` too, which must already be right. A module that is not of torch's own
    kinds, or that has no parameters (a norm without scale), has none.
    """
    tensors = {**dict(module.named_buffers(recurse=False)), **dict(module.named_parameters(recurse=False))}
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    weight = shapes.get("weight", ())
    match module:
        case _ConvTransposeNd() if weight:
            return {"in_channels": weight[0], "out_channels": weight[1] * module.groups}
        case _ConvNd() if weight:
            return {"in_channels": weight[1] * module.groups, "out_channels": weight[0], "kernel_size": weight[2:]}
        case nn.Linear() if weight:
            return {"in_features": weight[1], "out_features": weight[0]}
        case nn.Bilinear() if weight:
            return {"in1_features": weight[1], "in2_features": weight[2], "out_features": weight[0]}
        case nn.Embedding() | nn.EmbeddingBag() if weight:
            return {"num_embeddings": weight[0], "embedding_dim": weight[1]}
        case _NormBase() if weight or "running_mean" in shapes:
            return {"num_features": (weight or shapes["running_mean"])[0]}
        case nn.GroupNorm() if weight:
            return {"num_channels": weight[0]}
        case nn.LayerNorm() | nn.RMSNorm() if weight:
            return {"normalized_shape": weight}
        case nn.RNNBase() if "weight_ih_l0" in shapes:
            gates = {"LSTM": 4, "GRU": 3}.get(module.mode, 1)
            return {"input_size": shapes["weight_ih_l0"][1], "hidden_size": shapes["weight_ih_l0"][0] // gates}
        case nn.RNNCellBase() if "weight_ih" in shapes:
            return {"input_size": shapes["weight_ih"][1], "hidden_size": shapes["weight_hh"][1]}
        case nn.MultiheadAttention() if "in_proj_weight" in shapes:
            width = shapes["in_proj_weight"][1]
            return {"embed_dim": width, "kdim": width, "vdim": width}
        case nn.MultiheadAttention() if "q_proj_weight" in shapes:
            names = {"embed_dim": "q", "kdim": "k", "vdim": "v"}
            return {name: shapes[f"{letter}_proj_weight"][1] for name, letter in names.items()}
        case nn.PReLU() if weight:
            return {"num_parameters": weight[0]}
        case _:
            return {}

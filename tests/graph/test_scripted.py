"""What deep copies cannot copy: scripted functions, and hooks that remember the model they were written for."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tests.graph.nets import free, image, why_not
from torchpare import plan


@torch.jit.script
def gated(x: Tensor, half: int):
    return torch.tanh(x[:, :half]) * torch.sigmoid(x[:, half:])


class Gated(nn.Module):
    """A gate whose halves a scripted function takes apart, called by its name and through an attribute."""

    def __init__(self, *, owned: bool) -> None:
        super().__init__()
        self.width = 6
        self.a = nn.Conv2d(3, 12, 3)
        self.b = nn.Conv2d(6, 2, 3)
        self.gate = gated if owned else None

    def forward(self, x: Tensor) -> Tensor:
        made = self.a(x)
        return self.b(gated(made, self.width) if self.gate is None else self.gate(made, self.width))


def test_numbers_can_be_followed_into_a_scripted_function():
    model = Gated(owned=False).double()
    assert free(model, image(), "a") == 12, why_not(model, image(), "a")
    plan(model, [{"sparsity": 0.5, "structures": ["all"]}], image()).apply()
    assert (model.a.out_channels, model.b.in_channels, model.width) == (6, 3, 3)
    assert model(image()).shape == (2, 2, 2, 2)


def test_a_module_may_own_a_scripted_function():
    model = Gated(owned=True).double()
    plan(model, [{"sparsity": 0.5, "structures": ["all"]}], image()).apply()
    assert model.a.out_channels == 6
    assert isinstance(model.gate, torch.jit.ScriptFunction)


def test_scripted_functions_are_compiled_again_afterwards():
    call = torch.jit.ScriptFunction.__call__
    free(Gated(owned=False).double(), image(), "a")
    assert torch.jit.ScriptFunction.__call__ is call


class Tapped(nn.Module):
    """Features kept by a hook, as everybody does who wants those in the middle; the hook remembers the model."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 2, 3)
        self.features: dict[str, Tensor] = {}

        def keep(_module, _inputs, output):
            self.features["a"] = output

        self.a.register_forward_hook(keep)

    def forward(self, x: Tensor) -> Tensor:
        self.a(x)
        return self.b(torch.relu(self.features["a"]))


def test_hooks_of_the_copy_remember_the_copy():
    model = Tapped().double()
    model(image())
    before = model.features["a"]
    assert free(model, image(), "a") == 6
    assert model.features["a"] is before, "looking at a model wrote into it"
    plan(model, [{"sparsity": 0.5, "structures": ["all"]}], image()).apply()
    assert (model.a.out_channels, model.b.in_channels) == (3, 3)
    assert model(image()).shape == (2, 2, 2, 2)

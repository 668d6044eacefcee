"""Half of the heads and of the MLP width of a BERT, a ViT and a LLaMA: masked, fine-tuned, shrunk, used, saved.

    python examples/transformers_heads.py [bert|vit|llama] [--steps 20]

The models are small, made from configurations, with random weights, and learn a task that is made up here: how a
sentence begins, which half of a picture is brighter, or to repeat. Swap in yours with ``from_pretrained``; nothing else
changes. Needs: pip install torchpare transformers
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
import torch.nn.functional as F
import transformers
import typer
from torch import Tensor, nn

import torchpare
from torchpare import ModelSpeedup
from torchpare.errors import CheckpointError
from torchpare.pruning import TransformerHeadPruner


class Task(NamedTuple):
    """A model, an example of its input, and batches to learn from: inputs by name, and what is right."""

    model: Any
    example: dict[str, Tensor]
    batch: Callable[[torch.Generator], tuple[dict[str, Tensor], Tensor]]


def bert() -> Task:
    """Whether a sentence begins with one of the first fifty words."""
    config = transformers.BertConfig(
        hidden_size=64, num_hidden_layers=2, num_attention_heads=8, intermediate_size=128, vocab_size=100
    )

    def batch(generator: torch.Generator) -> tuple[dict[str, Tensor], Tensor]:
        ids = torch.randint(1, 100, (32, 12), generator=generator)
        return {"input_ids": ids}, (ids[:, 0] < 50).long()

    return Task(transformers.BertForSequenceClassification(config), {"input_ids": torch.ones(1, 12).long()}, batch)


def vit() -> Task:
    """Which half of a picture is brighter."""
    config = transformers.ViTConfig(
        hidden_size=64, num_hidden_layers=2, num_attention_heads=8, intermediate_size=128, image_size=16, patch_size=4,

    )  # fmt: skip

    def batch(generator: torch.Generator) -> tuple[dict[str, Tensor], Tensor]:
        pictures = torch.randn(32, 3, 16, 16, generator=generator)
        below = torch.randint(0, 2, (32,), generator=generator)
        pictures[below == 0, :, :8] += 0.5
        pictures[below == 1, :, 8:] += 0.5
        return {"pixel_values": pictures}, below

    return Task(transformers.ViTForImageClassification(config), {"pixel_values": torch.zeros(1, 3, 16, 16)}, batch)


def llama() -> Task:
    """Sentences that say the same four words again and again; eight query heads share four of keys and values."""
    config = transformers.LlamaConfig(
        hidden_size=64, num_hidden_layers=2, num_attention_heads=8, num_key_value_heads=4, intermediate_size=128,
        vocab_size=50, pad_token_id=0,
    )  # fmt: skip

    def batch(generator: torch.Generator) -> tuple[dict[str, Tensor], Tensor]:
        ids = torch.randint(3, 50, (32, 4), generator=generator).repeat(1, 4)
        return {"input_ids": ids[:, :-1]}, ids[:, 1:]

    return Task(transformers.LlamaForCausalLM(config), {"input_ids": torch.ones(1, 8).long()}, batch)


TASKS = {"bert": bert, "vit": vit, "llama": llama}


def learn(task: Task, steps: int, seed: int) -> list[float]:
    """Some steps of training, and the loss of each."""
    generator, losses = torch.Generator().manual_seed(seed), []
    optimizer = torch.optim.AdamW(task.model.parameters(), lr=1e-3)
    task.model.train()
    for _ in range(steps):
        inputs, right = task.batch(generator)
        logits = task.model(**inputs).logits
        loss = F.cross_entropy(logits.flatten(0, -2), right.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    task.model.eval()
    return losses


def compress(name: str, steps: int) -> None:
    """Train, mask, fine-tune, shrink, fine-tune, use and save one model."""
    torch.manual_seed(0)
    task = TASKS[name]()
    model: nn.Module = task.model
    before = sum(parameter.numel() for parameter in model.parameters())
    trained = learn(task, steps, seed=0)

    # Heads, found by running the model once, by the size of the weights that make them; MLP widths by a plan.
    heads = [{"sparsity": 0.5, "structures": ["heads"]}]
    TransformerHeadPruner(task.model, heads, dummy_input=task.example).compress()
    tuned = learn(task, steps, seed=1)
    heads_report = ModelSpeedup(model, task.example).speedup_model()
    mlp_report = torchpare.plan(model, [{"sparsity": 0.5, "structures": ["mlp"]}], task.example).apply()
    after = learn(task, steps, seed=2)

    left = sum(parameter.numel() for parameter in model.parameters())
    print(f"{name}: {before:,} -> {left:,} parameters, exact: {heads_report.exact and mlp_report.exact}")
    print(f"  loss: trained {trained[-1]:.3f}, heads gone and fine-tuned {tuned[-1]:.3f}, "
          f"widths gone {after[0]:.3f}, fine-tuned {after[-1]:.3f}")  # fmt: skip
    if name == "llama":
        prompt = torch.tensor([[7, 8, 9, 10] * 3])
        told = task.model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=8, do_sample=False)
        print(f"  after 7 8 9 10 three times it says: {' '.join(map(str, told[0, 12:].tolist()))}")
    with tempfile.TemporaryDirectory() as folder:
        loaded, how = save_and_load(name, task, Path(folder))
        same = torch.equal(loaded(**task.example).logits, task.model(**task.example).logits)
        print(f"  saved and loaded by {how}, the same: {same}")


def save_and_load(name: str, task: Task, folder: Path) -> tuple[nn.Module, str]:
    """Through the model's own config where that has a number for every width, otherwise through a small checkpoint."""
    try:
        torchpare.save_pretrained(task.model, folder / "model", task.example)
        return type(task.model).from_pretrained(folder / "model"), "from_pretrained"
    except CheckpointError:  # a BERT has one number for the width of its heads and that of its words
        torchpare.save(task.model, folder / "small.safetensors")
        return torchpare.load(TASKS[name]().model, folder / "small.safetensors").eval(), "torchpare.load"


def main(
    names: Annotated[list[str] | None, typer.Argument(help="bert, vit, llama; all by default")] = None,
    steps: Annotated[int, typer.Option(help="of training before, between and after")] = 120,
) -> None:
    """Compress the models, one after the other."""
    for name in names or TASKS:
        compress(name, steps)


if __name__ == "__main__":
    typer.run(main)

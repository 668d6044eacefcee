"""What examples/bert.yaml names: a BERT of a local config, sentences that are made up, and how many it gets right.

A sentence belongs to the first class if its first word is one of the first fifty. Swap in a model of yours with
``from_pretrained``, and batches of your tokenizer; nothing else changes.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch
import transformers
from torch import Tensor, nn

import torchpare

__all__ = ["right_sentences", "sentences", "trained"]

LENGTH, WORDS = 12, 100


def trained(epochs: int = 6) -> nn.Module:
    """A BERT that was trained, which takes half a minute; the weights are kept in ``runs`` for the next time."""
    path = Path(os.environ.get("BERT_RUNS", "runs")) / f"bert-sentences-{epochs}.safetensors"
    torch.manual_seed(0)
    config = transformers.BertConfig(
        hidden_size=128, num_hidden_layers=3, num_attention_heads=8, intermediate_size=512, vocab_size=WORDS
    )
    model = transformers.BertForSequenceClassification(config)
    if path.exists():
        return torchpare.load(model, path)
    path.parent.mkdir(parents=True, exist_ok=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4)
    model.train()
    for _ in range(epochs):
        for batch in sentences():
            optimizer.zero_grad()
            model(**batch).loss.backward()
            optimizer.step()
    torchpare.save(model.eval(), path)
    return model


def sentences(count: int = 1024, seed: int = 1) -> list[dict[str, Tensor]]:
    """Batches of sentences and their classes."""
    ids = torch.randint(1, WORDS, (count, LENGTH), generator=torch.Generator().manual_seed(seed))
    labels = (ids[:, 0] < WORDS // 2).long()
    return [{"input_ids": some, "labels": right} for some, right in zip(ids.split(32), labels.split(32), strict=True)]


def right_sentences(model: nn.Module) -> float:
    """The share of sentences, of others than were learnt, that are told rightly."""
    right = total = 0
    for batch in sentences(256, seed=2):
        said = model(input_ids=batch["input_ids"])
        logits = said["logits"] if isinstance(said, dict) else said.logits
        right += int((logits.argmax(-1) == batch["labels"]).sum())
        total += len(batch["labels"])
    return right / total

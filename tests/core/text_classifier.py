"""Texts to train on: whether the words of a sentence are about the sea or the mountains. Tokens, an
embedding bag, and metrics of one's own; no image anywhere. For tests.
"""

import random

import torch
from torch import nn
from torch.utils.data import DataLoader

from engine.core.trainer import BaseTrainer
from engine.core.validator import BaseValidator

WORDS = {
    0: ["wave", "harbour", "salt", "ship", "tide", "gull"],
    1: ["summit", "rope", "glacier", "pass", "rock", "hut"],
}
FILLERS = ["the", "a", "of", "and", "old", "near", "under", "we", "saw", "left"]
VOCABULARY = {word: i for i, word in enumerate([*WORDS[0], *WORDS[1], *FILLERS])}


def sentences(count, seed):
    """(text, label): three words about its subject among four of no meaning."""
    draw = random.Random(seed)
    for i in range(count):
        words = draw.sample(WORDS[i % 2], 3) + draw.sample(FILLERS, 4)
        draw.shuffle(words)
        yield " ".join(words), i % 2


def collate(samples):
    """tokens (B, T) int64, label (B,) int64; the first entry is what the model is given."""
    tokens = [[VOCABULARY[word] for word in text.split()] for text, _ in samples]
    return {"tokens": torch.tensor(tokens), "label": torch.tensor([label for _, label in samples])}


class Accuracy(BaseValidator):
    def init_metrics(self, model):
        self.right = 0

    def postprocess(self, preds):
        return preds.argmax(1)

    def update_metrics(self, results, batch):
        self.right += int((results == batch["label"]).sum())

    def get_stats(self):
        return {"metrics/accuracy": self.right / self.images}


class TextTrainer(BaseTrainer):
    loss_names = ("ce_loss",)
    sample_word = "texts"

    def get_model(self, cfg, weights):
        return nn.Sequential(nn.EmbeddingBag(len(VOCABULARY), 8), nn.Dropout(0.1), nn.Linear(8, 2))

    def get_dataset(self, data):
        return {"train": list(sentences(48, seed=1)), "val": list(sentences(16, seed=2))}

    def get_dataloader(self, dataset_path, batch_size, mode="train", rank=0):
        return DataLoader(dataset_path, batch_size, collate_fn=collate)

    def get_validator(self):
        return Accuracy(self.get_dataloader(self.data["val"], 8, mode="val"))

    def criterion(self, preds, batch):
        loss = nn.functional.cross_entropy(preds, batch["label"])
        return loss, loss.detach()[None]


def settings_of(project, **changes):
    return {
        "epochs": 6,
        "batch": 8,
        "lr0": 0.1,
        "project": str(project),
        "device": "cpu",
        "channels_last": False,
        **changes,
    }

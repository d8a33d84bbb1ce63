"""A look at the first output of a user's own network: a form that validation, export and prediction
cannot read is told after one batch, not after an epoch.
"""

from __future__ import annotations

from typing import Any

import torch

from engine.core.randomness import undisturbed
from engine.core.trainer import BaseTrainer
from engine.detect.validator import DetectionValidator
from engine.models.registry import Family, built_in, check_candidates
from engine.types import Batch


@torch.no_grad()
def check_output(trainer: Any) -> None:
    """After the first batch of a run: whether `candidates` of the user's own gives what validation,
    export and prediction take. Without it the first validation says so, an epoch later.
    """
    first = trainer.epoch == trainer.start_epoch and trainer.batch_index == 0
    if not first or trainer.network is None or is_built_in(trainer.network.family):
        return
    if not (_reads_candidates(trainer) and isinstance(trainer.batch, Batch)):
        return
    family, model = trainer.network.family, trainer.model
    modes = [(module, module.training) for module in model.modules()]
    with undisturbed():
        model.eval()
        try:
            found = family.candidates(trainer.forward(model=model, batch=trainer.batch))
        finally:
            for module, is_training in modes:
                module.training = is_training
    images = len(trainer.batch["img"])
    check_candidates(found, images, len(trainer.names), family.candidates_owner)


def _reads_candidates(trainer: Any) -> bool:
    """Whether validation asks for candidates: a user's own may read the output otherwise."""
    validator = trainer.validator
    return (
        type(trainer).validate is BaseTrainer.validate
        and isinstance(validator, DetectionValidator)
        and type(validator).postprocess is DetectionValidator.postprocess
    )


def is_built_in(family: Family) -> bool:
    """Whether a family is one of this project's, whose answers need no check."""
    return type(family) in {type(each) for each in built_in()}

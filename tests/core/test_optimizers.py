"""Every optimizer that may be asked for: made by name, learns, and resumes to the same bits."""

from typing import get_args

import pytest
import torch
from classifier import assert_same_run, make
from test_resume import interrupted
from torch import nn

from engine.config import TrainConfig
from engine.core.optim import apply_schedule, build_optimizer, usual_rate
from engine.core.schedule import Schedule

NAMES = [
    each for each in get_args(TrainConfig.model_fields["optimizer"].annotation) if each != "auto"
]


@pytest.mark.parametrize("name", NAMES)
def test_a_run_that_was_cut_off_ends_with_the_same_bits(name, tmp_path):
    plan = {"optimizer": name, "lr0": None}
    result = make(tmp_path, name="whole", **plan).train()
    assert result.metrics["metrics/accuracy"] > 0.5
    interrupted(make(tmp_path, name="cut", **plan), 1)
    make(tmp_path, name="cut", resume=True, **plan).train()
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


@pytest.mark.parametrize("name", NAMES)
def test_momentum_may_begin_at_zero(name):
    """torch's RMSprop makes its buffer at the first step alone."""
    model = nn.Linear(2, 1)
    optimizer = build_optimizer(model, name, lr=0.01, momentum=0.9, weight_decay=0.0)
    plan = Schedule(
        total=4,
        warmup=2,
        shape="constant",
        final=1.0,
        accumulate=1,
        warmup_bias_lr=0.0,
        warmup_momentum=0.0,
        momentum=0.9,
    )
    for iteration in range(4):
        apply_schedule(optimizer, plan, iteration, peak=0.01)
        optimizer.zero_grad()
        model(torch.ones(1, 2)).square().sum().backward()
        optimizer.step()
    assert torch.isfinite(model.weight).all()


def test_the_usual_rate_of_rmsprop_makes_steps_as_long_as_those_of_adam():
    """A constant gradient: both move a weight by lr a step in the end, RMSProp's momentum of 0.9
    multiplies by 10 what its rate divides by.
    """
    moved = {}
    for name in ("Adam", "RMSProp"):
        rate = usual_rate(name, lambda _: 0.001, momentum=0.9)
        model = nn.Linear(1, 1, bias=False)
        optimizer = build_optimizer(model, name, lr=rate, momentum=0.9, weight_decay=0.0)
        for step in range(1200):
            if step == 1100:
                before = model.weight.item()
            model.weight.grad = torch.ones(1, 1)
            optimizer.step()
        moved[name] = (before - model.weight.item()) / 100
    assert moved["RMSProp"] == pytest.approx(moved["Adam"], rel=0.01)
    assert moved["Adam"] == pytest.approx(0.001, rel=0.01)

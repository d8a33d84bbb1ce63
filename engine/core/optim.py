"""Parameter groups and optimizers.

Three groups: biases (no decay, their own warm-up), weights (decay), norm weights (no decay). The
learning rate is set by `engine.core.schedule` before every step; optimizers here carry no
scheduler.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import torch
from torch import nn

from engine.errors import ConfigError

FAMILIES = {  # those with beta1 and beta2
    "Adam": torch.optim.Adam,
    "AdamW": torch.optim.AdamW,
    "Adamax": torch.optim.Adamax,
    "NAdam": torch.optim.NAdam,
    "RAdam": torch.optim.RAdam,
}
TINY = 1e-12
RATE_DIGITS = 9  # behind the point: 0.000126, not 0.00012599999
LONG_RUN_ITERATIONS = 10_000  # from here on SGD generalises better than AdamW


def choose_optimizer(name: str, iterations: int) -> str:
    """`auto` becomes AdamW for short runs and SGD for long ones; an explicit name stays."""
    if name != "auto":
        return name
    return "SGD" if iterations > LONG_RUN_ITERATIONS else "AdamW"


def usual_rate(name: str, default_lr: Callable[[str], float], momentum: float) -> float:
    """Peak rate where none is given. RMSProp is Adam with heavy-ball momentum, which makes steps
    1 / (1 - momentum) times as long where gradients agree; Adam averages them.
    """
    if name == "RMSProp":
        return round(default_lr("Adam") * (1 - momentum), RATE_DIGITS)
    return default_lr(name)


def freeze_parameters(model: nn.Module, asked: int | Sequence[int | str]) -> list[str]:
    """Stop learning in every parameter whose name starts with a prefix; returns the frozen names.

    asked: prefixes; numbers of layers where the network has `numbered_layers`, the beginnings of
        their names in order; a number alone: so many first ones.

    Raises:
        ConfigError: a prefix that matches nothing, a number without a layer, or nothing is left to
            learn.
    """
    layers = range(asked) if isinstance(asked, int) else asked
    prefixes = [_layer(model, each) if isinstance(each, int) else each for each in layers]
    frozen: list[str] = []
    for prefix in prefixes:
        if prefix is None:  # a layer without parameters: it learns nothing
            continue
        hits = [name for name, _ in model.named_parameters() if name.startswith(prefix)]
        if not hits:
            top = ", ".join(
                dict.fromkeys(name.partition(".")[0] for name, _ in model.named_parameters())
            )
            raise ConfigError(
                f"freeze: no parameter starts with '{prefix}'. They start with: {top}"
            )
        frozen += hits
    for name, parameter in model.named_parameters():
        if name in set(frozen):
            parameter.requires_grad_(False)
    if frozen and not any(parameter.requires_grad for parameter in model.parameters()):
        raise ConfigError(
            f"freeze: {', '.join(prefixes)} leave no parameter that learns; freeze less"
        )
    return frozen


def _layer(model: nn.Module, number: int) -> str | None:
    """The beginning of the names of one numbered layer, None for one that has no parameters."""
    layers = getattr(model, "numbered_layers", None)
    if not layers:
        top = ", ".join(name for name, _ in model.named_children())
        raise ConfigError(
            f"freeze: the layers of {type(model).__name__} have no numbers; name what does not "
            f"learn, freeze=[NAME]: {top}"
        )
    if number >= len(layers):
        raise ConfigError(
            f"freeze: there is no layer {number}: {type(model).__name__} has {len(layers)} layers, "
            f"0 to {len(layers) - 1}"
        )
    return layers[number]


def keep_frozen_norms(model: nn.Module) -> None:
    """Put norm layers whose weight does not learn into eval mode: their statistics must not drift
    either.
    """
    for module in model.modules():
        if (
            isinstance(module, nn.modules.batchnorm._BatchNorm)
            and module.affine
            and not module.weight.requires_grad
        ):
            module.eval()


def parameter_groups(
    model: nn.Module, weight_decay: float, slow: Mapping[str, float] = MappingProxyType({})
) -> list[dict]:
    """[biases, weights, norm weights]; every learning parameter stands in exactly one.

    slow: beginning of parameter names -> factor of their rate; the longest that fits counts. Each
    factor has groups of its own, with `lr_factor`.

    Raises:
        ConfigError: a beginning that no parameter has.
    """
    factors = _factors(model, slow)
    norms = tuple(t for t in vars(nn).values() if isinstance(t, type) and "Norm" in t.__name__)
    found: dict[tuple[str, float], list] = {}
    seen: set[int] = set()  # one parameter may be part of several modules
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad or id(parameter) in seen:
                continue
            seen.add(id(parameter))
            kind = (
                "bias"
                if name.endswith("bias")
                else "norm"
                if isinstance(module, norms)
                else "weight"
            )
            found.setdefault((kind, factors.get(id(parameter), 1.0)), []).append(parameter)
    return [
        {
            "params": found[kind, factor],
            "weight_decay": weight_decay if kind == "weight" else 0.0,
            "group": kind if factor == 1 else f"{kind} x {factor:g}",
            "lr_factor": factor,
        }
        for factor in sorted({factor for _, factor in found}, reverse=True)
        for kind in ("bias", "weight", "norm")
        if (kind, factor) in found
    ]


def _factors(model: nn.Module, slow: Mapping[str, float]) -> dict[int, float]:
    """id of a parameter -> factor of its rate."""
    names = [name for name, _ in model.named_parameters()]
    for prefix in slow:
        if not any(name.startswith(prefix) for name in names):
            top = ", ".join(dict.fromkeys(name.partition(".")[0] for name in names))
            raise ConfigError(f"slow: no parameter starts with '{prefix}'. They start with: {top}")
    return {
        id(parameter): slow[max(fitting, key=len)]
        for name, parameter in model.named_parameters()
        if (fitting := [prefix for prefix in slow if name.startswith(prefix)])
    }


def build_optimizer(
    model: nn.Module,
    name: str,
    lr: float,
    momentum: float,
    weight_decay: float,
    slow: Mapping[str, float] = MappingProxyType({}),
) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum, RMSProp with momentum, or one of Adam's kind, over
    `parameter_groups`.
    """
    groups = parameter_groups(model, weight_decay, slow)
    if name == "SGD":
        return torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=momentum > 0)
    if name == "RMSProp":
        return torch.optim.RMSprop(groups, lr=lr, momentum=momentum)
    return FAMILIES[name](groups, lr=lr, betas=(momentum, 0.999))


def name_groups(optimizer: torch.optim.Optimizer) -> None:
    """Name the parameter groups that a user's own optimizer left without: `all`, or `group0`,
    `group1`, ...
    """
    for number, group in enumerate(optimizer.param_groups):
        group.setdefault("group", "all" if len(optimizer.param_groups) == 1 else f"group{number}")


def apply_schedule(optimizer: torch.optim.Optimizer, schedule, iteration: int, peak: float) -> None:
    """Write rate and momentum of this iteration into the groups."""
    momentum = schedule.momentum_at(iteration)
    for group in optimizer.param_groups:
        rate = schedule.lr(iteration, peak, is_bias=group["group"].split(" ")[0] == "bias")
        group["lr"] = rate * group.get("lr_factor", 1.0)
        if "momentum" in group:
            # torch's RMSprop has a buffer only if the momentum of the first step is not zero
            group["momentum"] = max(momentum, TINY) if "alpha" in group else momentum
        elif "betas" in group:
            group["betas"] = (momentum, group["betas"][1])

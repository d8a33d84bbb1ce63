"""What MLflow is told besides parameters, figures and results. No stage depends on these settings; a change reruns none."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from engine.config.base import Frozen


def _in(unit: str) -> dict[str, Any]:
    return {"unit": unit}


class TrackingConfig(Frozen):
    """What a training tells MLflow while it goes on."""

    classes: int = Field(
        20, ge=0, description="classes with figures of their own every epoch, those with most objects in val; 0: none",
        json_schema_extra=_in("classes"),
    )  # fmt: skip
    pictures: int = Field(
        10, ge=0, description="epochs of which predictions, curves and confusion matrix are drawn, more of them early; 0: none",
        json_schema_extra=_in("epochs"),
    )  # fmt: skip
    machine_every_s: float = Field(
        10.0, ge=0, description="seconds between two samples of CPU, memory, disk, network and GPU; 0: none",
        json_schema_extra=_in("seconds"),
    )  # fmt: skip
    checkpoints: Literal["none", "best", "last", "all"] = Field(
        "best", description="uploaded while it trains: the best weights, the newest state too (last), or every state (all)"
    )
    checkpoint_every_epochs: int = Field(
        10, ge=1, description="epochs between two uploads of checkpoints; the end of the training counts as well",
        json_schema_extra=_in("epochs"),
    )  # fmt: skip
    code_diff: bool = Field(True, description="upload what differs from the git commit")

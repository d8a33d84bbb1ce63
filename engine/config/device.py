"""How a device is written: `auto`, `cpu`, `cuda`, `cuda:N`; a GPU's number alone is `cuda:N`."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BeforeValidator

DEVICES = "auto, cpu, cuda, or cuda:N"


def read_device(value: Any) -> Any:
    """The device that `value` means: 0, "0" and [0] are "cuda:0"; None and "" are "auto"; a
    `torch.device` is its text.

    Raises:
        ValueError: several GPUs, or a device that there is not.
    """
    if type(value).__module__ == "torch" and type(value).__name__ == "device":
        value = str(value)  # torch takes seconds to import
    numbers = gpu_numbers(value)
    if numbers is not None and len(numbers) == 1:
        return f"cuda:{numbers[0]}"
    if numbers:
        raise ValueError(f"one of {DEVICES}; this runs on one device, so name one GPU, device=0")
    if value is None or (isinstance(value, str) and not value.strip()):
        return "auto"
    if isinstance(value, str) and not re.fullmatch(r"auto|cpu|cuda(:\d+)?", value.strip().lower()):
        raise ValueError(f"should be {DEVICES}{_instead_of(value.strip().lower())}")
    if isinstance(value, int):
        raise ValueError(f"should be {DEVICES}{_instead_of(str(value))}")
    return value


def gpu_numbers(value: Any) -> list[int] | None:
    """The numbers of GPUs that `0`, `"0"`, `[0, 1]`, `"0,1"`, `"cuda:0,1"` or `"cuda:0,cuda:1"`
    name; None where it is something else.
    """
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return [value] if value >= 0 else None
    if isinstance(value, (list, tuple)):
        value = ",".join(map(str, value))
    if not isinstance(value, str):
        return None
    parts = [part.strip().strip("'\"") for part in value.strip().strip("[]()").split(",")]
    numbers = [re.fullmatch(r"(?:cuda:)?(\d+)", part, re.IGNORECASE) for part in parts]
    is_name = len(parts) == 1 and value.strip().lower().startswith("cuda")
    return None if is_name or not all(numbers) else [int(found[1]) for found in numbers]


def of_training(value: Any) -> dict[str, Any] | None:
    """device=[0,1]: the first two GPUs, a process each. None: one device, or none that there is.

    Raises:
        ValueError: others than the first ones; says how those are chosen.
    """
    numbers = gpu_numbers(value)
    if numbers is None or len(numbers) < 2:
        return None
    if sorted(numbers) != list(range(len(numbers))):
        chosen = ",".join(map(str, numbers))
        raise ValueError(
            f"device={value}: several GPUs are chosen from outside: CUDA_VISIBLE_DEVICES={chosen} "
            f"detectflow train device=cuda nproc={len(numbers)} ..."
        )
    return {"device": "cuda", "nproc": len(numbers)}


def _instead_of(text: str) -> str:
    if text == "mps":
        return "; Apple's GPU (mps) is not supported: use cpu"
    if text == "-1":
        return "; no GPU is looked for that is idle: CUDA_VISIBLE_DEVICES=N chooses one"
    if text == "gpu":
        return "; a GPU is cuda"
    return ""


Device = Annotated[str, BeforeValidator(read_device)]

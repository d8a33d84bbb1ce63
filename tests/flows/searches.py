"""A search that is as small as can be: a dozen images of 64 px, two epochs, two settings."""

from pathlib import Path

SPACE = "lr0: {low: 1e-4, high: 2e-2, log: true}\nmosaic: {low: 0.0, high: 1.0}\n"
WORDS = {
    "data": "data/tiny.yaml",
    "epochs": 2,
    "imgsz": 64,
    "batch": 6,
    "trials": 3,
    "space": "tune.yaml",
    "study": "s",
}


def write_tiny(root: Path) -> None:
    """The dataset description and the space that `WORDS` names."""
    text = (root / "data" / "digits.yaml").read_text()
    lines = [line for line in text.splitlines() if not line.startswith(("name:", "options:"))]
    lines += [
        "name: tiny",
        "options: {train: 12, val: 4, test: 4, size: 64, min_px: 24, max_px: 48}",
    ]
    (root / "data" / "tiny.yaml").write_text("\n".join(lines) + "\n")
    (root / "tune.yaml").write_text(SPACE)

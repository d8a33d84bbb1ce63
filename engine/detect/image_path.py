"""The path of a result's image: a `pathlib.Path`, that also does what people do with text."""

from __future__ import annotations

from pathlib import Path
from typing import Any


class ImagePath(
    type(Path())
):  # the class of this platform: Path itself cannot be derived before 3.12
    """`path.name`, `path.stem` and all of `pathlib.Path`, and `path.split("/")`,
    `path.endswith(".jpg")`, `path + ".txt"`, `path == "a.jpg"` as of a text. As the key of a
    dictionary it is a Path.
    """

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or not hasattr(str, name):
            raise AttributeError(f"'{type(self).__name__}' object has no attribute '{name}'")
        return getattr(str(self), name)

    def replace(self, *args: Any) -> Any:
        """With two texts the path as text with one put for the other; with one path the file is
        renamed, as `Path.replace` does.
        """
        return super().replace(*args) if len(args) == 1 else str(self).replace(*args)

    def __contains__(self, text: str) -> bool:
        return text in str(self)

    def __add__(self, text: str) -> str:
        return str(self) + text

    def __radd__(self, text: str) -> str:
        return text + str(self)

    def __getitem__(self, key: int | slice) -> str:
        return str(self)[key]

    def __eq__(self, other: object) -> bool:
        return str(self) == other if isinstance(other, str) else super().__eq__(other)

    __hash__ = type(Path()).__hash__

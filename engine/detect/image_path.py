"""The path of a result's image: text, as people know it, that also does what a path does."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from engine.settings.yaml_io import dumped_as


class ImagePath(str):
    """A text, wherever one is wanted (`json.dumps`, `re`, format, `in` a set of texts), with all
    that `pathlib.Path` has: `path.name`, `path.stem`, `path.parent`, `path / "x"`, `path.exists()`;
    what gives a path there gives a `Path` here. It equals the text and the `Path` of the same
    name. As the key of a dictionary it is text; a `Path` is found there by `Path(path)`.
    """

    file: Path  # absolute: it stays the same file where the working directory is another one later

    def __new__(cls, path: str | os.PathLike[str]) -> ImagePath:
        if isinstance(path, cls):
            return path
        made = super().__new__(cls, os.fspath(path))
        made.file = Path(str(made)).absolute()
        return made

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or not hasattr(Path, name):
            raise AttributeError(f"'{type(self).__name__}' object has no attribute '{name}'")
        return getattr(Path(str(self)), name)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *(each for each in dir(Path) if each[0] != "_")})

    def __fspath__(self) -> str:
        return str(self)

    def replace(self, *args: Any, **options: Any) -> Any:
        """With two texts the path as text with one put for the other; with one path the file is
        renamed, as `Path.replace` does.
        """
        if len(args) == 1 or "target" in options:
            return Path(str(self)).replace(*args, **options)
        return super().replace(*args, **options)

    def __truediv__(self, other: Any) -> Path:
        return Path(str(self)) / other

    def __rtruediv__(self, other: Any) -> Path:
        return other / Path(str(self))

    def __eq__(self, other: object) -> bool:
        return Path(str(self)) == other if isinstance(other, Path) else super().__eq__(other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __lt__(self, other: Any) -> bool:
        return Path(str(self)) < other if isinstance(other, Path) else super().__lt__(other)

    def __le__(self, other: Any) -> bool:
        return Path(str(self)) <= other if isinstance(other, Path) else super().__le__(other)

    def __gt__(self, other: Any) -> bool:
        return Path(str(self)) > other if isinstance(other, Path) else super().__gt__(other)

    def __ge__(self, other: Any) -> bool:
        return Path(str(self)) >= other if isinstance(other, Path) else super().__ge__(other)

    __hash__ = str.__hash__


dumped_as(ImagePath, str)

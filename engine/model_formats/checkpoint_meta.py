"""What a checkpoint (`.pt`) says of itself, read without torch: its import takes seconds, and stage
`code` needs only the name of a family.

The plain data of the file are read and nothing in it is run: whatever else it names, tensors among
it, becomes an object that does nothing. Whoever needs the weights reads them with
`engine.core.checkpoint`, which checks them.
"""

from __future__ import annotations

import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PLAIN_DATA = "/data.pkl"  # of the archive that torch.save writes; its tensors lie in other members


def read_checkpoint_meta(path: Path) -> Mapping[str, Any]:
    """The metadata of a checkpoint; {} where the file holds none. Raises whatever a foreign or
    damaged file makes of the reader.
    """
    with zipfile.ZipFile(path) as archive:
        name = next(name for name in archive.namelist() if name.endswith(PLAIN_DATA))
        with archive.open(name) as stream:
            content = _Reader(stream).load()
    meta = content.get("meta") if isinstance(content, Mapping) else None
    return meta if isinstance(meta, Mapping) else {}


class _Nothing:
    """In place of every object that is no plain data."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        return OrderedDict if (module, name) == ("collections", "OrderedDict") else _Nothing

    def persistent_load(self, pid: Any) -> Any:
        return _Nothing()

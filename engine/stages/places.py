"""Where files may be put that belong to no stage: an output of a stage is DVC's, which removes what
else lies there. Commands ask this, no stage does; its code makes none stale.
"""

from __future__ import annotations

from pathlib import Path

from engine.errors import ConfigError
from engine.project.environment import NoProject, find_root
from engine.registry.fetch import is_fetched
from engine.stages.start_weights import stage_that_makes

EXPORTS = "runs/export"  # of a project


def export_folder(weights: Path, asked: str | Path | None) -> Path:
    """The folder for an exported model: `asked`, else beside the weights; for those of the pipeline
    and for those fetched from the registry into a hidden folder `runs/export/`.

    Raises:
        ConfigError: `asked` lies in an output of a stage.
    """
    folder = Path(asked) if asked is not None else weights.parent
    try:
        root = find_root(folder)
    except NoProject:
        return folder
    owner = stage_that_makes(folder, root)
    if asked is None and (owner is not None or is_fetched(weights.resolve(), root)):
        return root / EXPORTS
    if owner is None:
        return folder
    raise ConfigError(
        f"export: folder={asked} lies in {owner[1]}, which stage {owner[0]} makes anew: DVC would "
        f"not go on, or remove the file. Give another folder, for example {EXPORTS}; the pipeline "
        "itself exports with -S export.formats=[onnx]"
    )

"""What the numbers of a model mean travels with it: the hash of the class names, from the data into
every file of the model.
"""

from __future__ import annotations

import json

import pytest
import torch

from engine.core.checkpoint import load_checkpoint
from engine.data.manifest import class_hash
from engine.datasets.open import open_dataset
from engine.detect.model_io import load_model
from engine.detect.runtime import load_runtime
from engine.errors import CheckpointError
from engine.export import FORMATS, export

SWAPPED = ["disc", "square"]


def test_the_hash_of_the_data_is_that_of_the_checkpoint_and_of_every_export(
    trained, shapes, tmp_path
):
    best, known = trained[1].best, open_dataset(shapes).class_hash
    assert known == class_hash(["square", "disc"]) != class_hash(SWAPPED)
    assert load_checkpoint(best).meta["class_hash"] == known
    for format in FORMATS:
        file = export(best, format, tmp_path).path
        assert load_runtime(file, "cpu").meta["class_hash"] == known, format


def test_names_that_were_changed_in_the_file_are_refused(trained, tmp_path):
    """A permutation by hand would make every later figure and every box wrong, silently."""
    import onnx
    from safetensors.torch import load_file, save_file

    best = trained[1].best
    content = torch.load(best, weights_only=True)
    content["meta"]["names"] = SWAPPED
    torch.save(content, tmp_path / "swapped.pt")
    with pytest.raises(CheckpointError):  # its own check sums, or the hash
        load_model(tmp_path / "swapped.pt")

    file = export(best, "onnx", tmp_path).path
    model = onnx.load(file)
    next(entry for entry in model.metadata_props if entry.key == "names").value = json.dumps(
        SWAPPED
    )
    onnx.save(model, file)
    with pytest.raises(
        CheckpointError,
        match=rf"disc, square\) have hash {class_hash(SWAPPED)}, and it says .*were changed",
    ):
        load_runtime(file, "cpu")

    file = export(best, "safetensors", tmp_path).path
    from safetensors import safe_open

    with safe_open(file, "pt") as stream:
        texts = stream.metadata()
    save_file(
        load_file(file), tmp_path / "swapped.safetensors", {**texts, "names": json.dumps(SWAPPED)}
    )
    with pytest.raises(CheckpointError, match="were changed after it was written"):
        load_model(tmp_path / "swapped.safetensors")

"""The champion on today's data: measured as a comparison measures it, on images that were there
before and on new ones, told apart. The detector is written by hand, so its AP is known.
"""

import json
from dataclasses import replace

import numpy as np
import pytest
import toys

from engine.data.manifest import class_hash, read_manifest, write_manifest
from engine.detect import DetectionValidator
from engine.errors import DataError
from engine.stages import register as stage
from engine.stages.revalidate import measure


@pytest.fixture
def champion(workspace):
    """Version 1 is champion, with an AP50-95 of .6 on 24 images."""
    toys.train(workspace, epochs=1)
    toys.validate(workspace, 0.5)
    toys.export(workspace, shift=1)
    assert stage.run(toys.params_of(workspace), workspace)["decision"] == "champion"
    return workspace


def measured(root):
    return measure(toys.params_of(root), root, "detector@champion")


def relabel(root, change):
    """Rewrite the records of the test split."""
    manifest = root / "data" / "prepared" / "test.jsonl"
    records = [
        replace(record, file=root / "data" / "prepared" / record.file)
        if not record.file.is_absolute()
        else record
        for record in read_manifest(manifest)
    ]
    write_manifest(manifest, change(records))


def test_the_same_images_give_the_same_value_whatever_stage_validate_had_said(champion, store):
    found = measured(champion)
    assert found.now == pytest.approx(found.before) == pytest.approx(0.6)
    assert found.same_images and found.images == 24 and found.worse_by(0.02) == []
    assert found.interval == (pytest.approx(0.6), pytest.approx(0.6)), "every image alike"
    assert {row["name"]: row["instances"] for row in found.per_class} == {"dark": 24, "bright": 24}
    said = DetectionValidator(config=toys.params_of(champion).validate_)(
        model=champion / "export" / "best.onnx", data=champion / "data" / "prepared"
    )
    assert found.metrics == pytest.approx({key: said[key] for key in found.metrics})
    assert {"metrics/mAP75", "metrics/precision", "metrics/recall"} <= found.metrics.keys()
    run = store.client.get_run(found.run_id)
    assert run.data.metrics["test/mAP50-95"] == pytest.approx(0.6)
    kept = {each.path for each in store.client.list_artifacts(found.run_id, "validate")}
    assert kept == {"validate/matches.npz", "validate/per_class.csv"}


def test_harder_new_images_are_told_from_the_old_ones(champion):
    prepared = champion / "data" / "prepared"
    toys.add_images(prepared, "test", range(5000, 5024))

    def elsewhere(records):
        new = [replace(r, boxes=r.boxes + 4) for r in records[24:]]
        return [*records[:24], *new]

    relabel(champion, elsewhere)
    found = measured(champion)
    assert found.images == 48 and not found.same_images
    earlier = found.earlier
    assert (earlier.images, earlier.same) == (24, 24)
    assert earlier.on_same == earlier.now_on_same == pytest.approx(0.6)
    assert found.now < 0.5
    (worse,) = found.worse_by(0.02)
    assert "0.6000 before, on other images" in worse


def test_changed_labels_of_the_same_images_are_worse_on_the_same_images(champion):
    relabel(champion, lambda records: [replace(r, boxes=r.boxes + 4) for r in records])
    found = measured(champion)
    assert found.same_images and found.earlier.on_same == pytest.approx(0.6)
    (worse,) = found.worse_by(0.02)
    assert worse.startswith("worse on the same 24 images") and "0.6000 then" in worse


def test_a_champion_of_other_classes_is_measured_on_those_it_shares(champion):
    def rename(*names):
        file = champion / "data" / "prepared" / "dataset.json"
        about = json.loads(file.read_text())
        digest = class_hash(names)
        file.write_text(json.dumps({**about, "names": list(names), "class_hash": digest}))

    def as_new(records):
        return [replace(r, classes=np.where(r.classes == 0, 0, 1)) for r in records]

    rename("new", "bright")
    relabel(champion, as_new)
    found = measured(champion)
    assert found.unknown_classes == ("new",) and [r["name"] for r in found.per_class] == ["bright"]
    assert found.now == pytest.approx(found.before), "over the class that both know"
    rename("new", "newer")
    with pytest.raises(DataError, match="class"):
        measured(champion)


def test_without_kept_evidence_the_value_it_was_registered_with_is_told_as_such(champion):
    for file in (champion / "mlartifacts").rglob("decisions/*.npz"):
        file.unlink()
    found = measured(champion)
    assert (found.before, found.earlier.images, found.same_images) == (0.5, None, True)


def test_the_flows_sentence_says_on_which_images(champion):
    from flows.validate_champion import as_markdown, sentence

    found = measured(champion)
    assert "0.6000 when it was decided on (the same images)" in sentence(found)
    toys.add_images(champion / "data" / "prepared", "test", [5000])
    said = sentence(measured(champion))
    assert "on test today (25 images, 95 % interval" in said
    assert "on the 24 of them that are still there 0.6000 now, 0.6000 then" in said
    assert said in as_markdown(measured(champion), "champion")

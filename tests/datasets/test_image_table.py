"""Columns of `data.meta_table`: carried to the prepared records, without a digest of its own."""

import pytest
from dataset_builders import make_voc

from engine.config import DataConfig
from engine.data.manifest import load_prepared
from engine.datasets.description import load_description
from engine.datasets.prepare import prepare
from engine.errors import ConfigError, DataError
from engine.types import SPLITS

IMAGES = {f"i{i}": [("cat", (1, 1, 9, 9))] for i in range(12)}
TABLE = "image,camera,height_m\n" + "".join(f"i{i}.png,cam{i % 3},{i / 2}\n" for i in range(11))


def prepared(root, out, **settings):
    report = prepare(load_description(root), out, DataConfig(**settings))
    dataset = load_prepared(out)
    return report.info, {r.name: dict(r.meta) for s in SPLITS for r in dataset.records(s)}


def test_columns_come_with_the_records_and_leave_the_digest_as_it_is(tmp_path):
    root = make_voc(tmp_path / "voc", IMAGES, lists=False)
    plain, nothing = prepared(root, tmp_path / "plain")
    (root / "meta.csv").write_text(TABLE)
    info, meta = prepared(root, tmp_path / "out", meta_table="meta.csv")
    by_file = {name.rsplit("/", 1)[-1]: values for name, values in meta.items()}
    assert by_file["i4.png"] == {"camera": "cam1", "height_m": "2.0"}
    assert by_file["i11.png"] == {} and not any(nothing.values())
    assert info["digest"] == plain["digest"] and info["source_digest"] == plain["source_digest"]
    assert info["source_layout"] != plain["source_layout"]  # so that another table is noticed
    assert '"meta"' not in (tmp_path / "plain" / "train.jsonl").read_text()


@pytest.mark.parametrize(
    ("settings", "table", "message"),
    [
        ({"meta_table": "mta.csv"}, TABLE, "has no mta.csv .*Did you mean 'meta.csv'"),
        ({"meta_table": "meta.csv"}, "file,camera\na,b\n", "has no column 'image'"),
        (
            {"meta_table": "meta.csv"},
            "image,c\ni0.png,x\ni0.png,y\n",
            "line 3: i0.png is described",
        ),
        ({"meta_table": "meta.csv"}, 'image,c\n"i0.png,x\n', "not a CSV table"),
    ],
)
def test_a_table_that_is_none_is_explained(tmp_path, settings, table, message):
    root = make_voc(tmp_path / "voc", IMAGES, lists=False)
    (root / "meta.csv").write_text(table)
    with pytest.raises(DataError, match=message):
        prepared(root, tmp_path / "out", **settings)


def test_generated_images_have_no_table(tmp_path):
    with pytest.raises(ConfigError, match="generated dataset has no tables"):
        prepare(
            load_description("data/digits.yaml"), tmp_path / "o", DataConfig(meta_table="meta.csv")
        )

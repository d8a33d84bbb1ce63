"""Splits by content: stable, grouped, without leaks; given splits are respected."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
from dataset_builders import make_voc, put
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.config import DataConfig
from engine.data.manifest import load_prepared
from engine.datasets.description import load_description
from engine.datasets.findings import Findings
from engine.datasets.formats.folder import Folder
from engine.datasets.groups import compile_group, group_of, open_groups
from engine.datasets.prepare import prepare
from engine.datasets.splits import (
    Candidate,
    Link,
    assign_splits,
    read_kept_splits,
    split_groups,
    split_hash,
    splits_text,
)
from engine.datasets.stratify import stratified
from engine.errors import ConfigError, DataError
from engine.types import SPLITS


def image(i: int, group: str = "", split: str = "") -> Candidate:
    return Candidate(f"{i}.jpg", hashlib.sha256(str(i).encode()).hexdigest(), group, split)


def assign(candidates, **options) -> tuple[list[str], Findings]:
    findings = Findings.with_policies(options.pop("policies", {}))
    values = {"given": False, "seed": 0, "val_fraction": 0.2, "test_fraction": 0.1, **options}
    return assign_splits(candidates, findings, **values), findings


def test_fractions_are_those_asked_for_to_within_chance():
    sides, findings = assign([image(i) for i in range(4000)])
    assert (
        abs(sides.count("val") / 4000 - 0.2) < 0.025
        and abs(sides.count("test") / 4000 - 0.1) < 0.02
    )
    assert findings.counts == {}


@settings(max_examples=30, deadline=None)
@given(st.permutations(range(60)), st.integers(1, 60))
def test_adding_images_never_moves_others_and_order_does_not_matter(order, n):
    everything = dict(zip(range(60), assign([image(i) for i in range(60)])[0]))
    some = order[: max(n, 40)]
    sides, findings = assign([image(i) for i in some])
    moved = {i for i, side in zip(some, sides) if side != everything[i]}
    # The one exception: chance left a split empty, so images were taken for it, and a finding says
    # so.
    assert not moved or findings.counts["small_split"] == len(
        {everything[i] for i in range(60)} - {everything[i] for i in some}
    )


def test_another_seed_is_another_split():
    images = [image(i) for i in range(200)]
    assert assign(images)[0] != assign(images, seed=1)[0]
    assert assign(images, seed=7)[0] == assign(images, seed=7)[0]


def test_growing_a_fraction_only_takes_from_train():
    images = [image(i) for i in range(500)]
    small, large = assign(images)[0], assign(images, val_fraction=0.4)[0]
    assert all(
        after == before or (before, after) == ("train", "val")
        for before, after in zip(small, large)
    )


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 12)), min_size=20, max_size=80))
def test_equal_images_and_groups_stay_together(pairs):
    """Also by a chain: a and b share a group, b and c are the same image."""
    images = [image(content, group=f"g{group}" if group else "") for content, group in pairs]
    sides, _ = assign(images)
    for key in ("sha256", "group"):
        seen: dict[str, str] = {}
        for candidate, side in zip(images, sides):
            if getattr(candidate, key):
                assert seen.setdefault(getattr(candidate, key), side) == side
    shuffled = list(reversed(images))
    assert list(reversed(split_groups(shuffled))) == split_groups(images)


def test_lots_are_fixed_for_ever():
    """A change here would move images of every dataset between train and test."""
    assert split_hash(0, "bytes abc") == pytest.approx(0.43014496, abs=1e-8)


@pytest.mark.parametrize(
    "pattern, name, group",
    [
        (r"^(\w+)_\d+", "x/cam1_0042.jpg", "cam1"),
        (r"\d+", "x7/cam12.jpg", "12"),
        (r"z", "a.jpg", ""),
        (None, "a.jpg", ""),
        (r"a(b)?", "a.jpg", ""),
    ],
)
def test_groups_by_a_pattern_on_the_file_name(pattern, name, group):
    assert group_of(name, compile_group(pattern)) == group


def test_a_wrong_pattern_and_fractions_that_leave_nothing():
    with pytest.raises(ConfigError, match=r"data.group_by: '\(' is no regular expression"):
        compile_group("(")
    with pytest.raises(
        ConfigError, match="val_fraction=0.6 and data.test_fraction=0.4 leave nothing"
    ):
        assign([image(0)], val_fraction=0.6, test_fraction=0.4)


@pytest.mark.parametrize("n", [3, 4, 5, 8])
@pytest.mark.parametrize("seed", range(5))
def test_very_few_images_still_fill_every_split(n, seed):
    sides, _ = assign([image(i) for i in range(n)], seed=seed, val_fraction=0.1)
    assert {"val", "test"} <= set(sides) or "train" not in sides
    two, findings = assign([image(0), image(1)], seed=seed)
    assert len(set(two)) == 2 or "empty_split" in findings.counts


def test_an_image_lent_to_an_empty_split_goes_back_unless_it_is_kept():
    few = [image(i) for i in range(5)]
    seed = next(seed for seed in range(50) if "small_split" in assign(few, seed=seed)[1].counts)
    before, findings = assign(few, seed=seed)
    assert "go back once an added image does: keep them with data.keep_splits" in str(
        findings.examples["small_split"][0]
    )
    many = [image(i) for i in range(400)]
    assert assign(many, seed=seed)[0][:5] != before
    kept = {candidate.sha256: side for candidate, side in zip(few, before)}
    assert assign(many, seed=seed, kept=kept)[0][:5] == before
    nothing_to_lend = assign([image(0)], seed=seed, val_fraction=0.0)[1].examples
    assert "go back" not in str(nothing_to_lend["small_split"][0])


def test_a_fraction_of_zero_asks_for_no_such_split():
    sides, findings = assign([image(i) for i in range(50)], test_fraction=0.0)
    assert "test" not in sides and "val" in sides and findings.counts == {}


def test_given_splits_are_kept_and_what_is_in_none_is_left_out():
    images = [image(0, split="test"), image(1, split="train"), image(2, split="val"), image(3)]
    sides, findings = assign(images, given=True)
    assert sides == ["test", "train", "val", ""] and findings.counts == {"not_in_split": 1}


def test_a_group_over_two_given_splits_is_a_leak():
    images = [
        image(0, "g", "train"),
        image(1, "g", "test"),
        image(2, "h", "train"),
        image(3, "", "val"),
    ]
    sides, findings = assign(images, given=True, policies={"split_leak": "drop"})
    assert sides == ["", "test", "train", "val"] and findings.counts == {"split_leak": 1}
    assert (
        str(findings.examples["split_leak"][0])
        == "0.jpg: (in train) is of group 'g', like 1.jpg (in test)"
    )
    assert assign(images, given=True, policies={"split_leak": "warn"})[0] == [
        c.given for c in images
    ]


# --- near duplicates ------------------------------------------------------------------------------


def sha(i: int) -> str:
    return image(i).sha256


def chain(*numbers: int) -> list[Link]:
    return [Link(sha(a), sha(b), 20) for a, b in zip(numbers, numbers[1:])]


pairs_of_forty = st.lists(
    st.tuples(st.integers(0, 39), st.integers(0, 39)).filter(lambda pair: pair[0] != pair[1]),
    max_size=30,
)


@settings(max_examples=60, deadline=None)
@given(pairs_of_forty, st.integers(0, 5))
def test_near_duplicates_are_never_on_two_sides(pairs, seed):
    images = [image(i) for i in range(40)]
    links = [Link(sha(a), sha(b), 9) for a, b in pairs]
    sides, _ = assign(images, links=links, seed=seed)
    assert all(sides[a] == sides[b] for a, b in pairs) and "" not in sides


@settings(max_examples=60, deadline=None)
@given(pairs_of_forty, st.permutations(range(40)), st.integers(20, 39))
def test_only_what_a_new_image_resembles_can_move_without_kept_splits(pairs, order, n):
    """The limit of what content alone can promise; `data.keep_splits` promises more."""
    old, new = set(order[:n]), set(order[n:])
    links = [Link(sha(a), sha(b), 9) for a, b in pairs]
    before, findings = assign(
        [image(i) for i in sorted(old)], links=[k for k, p in zip(links, pairs) if set(p) <= old]
    )
    after, more = assign([image(i) for i in range(40)], links=links)
    if "small_split" in findings.counts | more.counts:
        return  # the one exception, tested above
    group = dict(zip(range(40), split_groups([image(i) for i in range(40)], links)))
    touched = {group[i] for i in new}
    moved = {i for i, side in zip(sorted(old), before) if after[i] != side}
    assert all(group[i] in touched for i in moved)


# --- kept splits ----------------------------------------------------------------------------------


@settings(max_examples=80, deadline=None)
@given(
    pairs_of_forty,
    st.permutations(range(40)),
    st.integers(1, 39),
    st.integers(0, 3),
    st.sampled_from(["warn", "fix"]),
)
def test_with_kept_splits_nothing_old_ever_moves_and_nothing_new_leaks(
    pairs, order, n, seed, uneven
):
    """Whatever the new images resemble, whatever the seed, and however classes are spread."""
    old = sorted(order[:n])
    links = [Link(sha(a), sha(b), 9) for a, b in pairs]
    everything = [replace(image(i), classes=(i % 3,)) for i in range(40)]
    known = {sha(i): side for i, side in zip(old, assign([everything[i] for i in old])[0])}
    sides, findings = assign(
        everything, links=links, kept=known, seed=seed, policies={"uneven_split": uneven}
    )
    for i in old:
        assert sides[i] == known[sha(i)]
    for a, b in pairs:
        if (a not in old or b not in old) and sides[a] and sides[b]:
            assert sides[a] == sides[b], "a new image on another side than what it resembles"
    left_out = {i for i, side in enumerate(sides) if not side}
    assert len(left_out) == findings.counts.get("linked_splits", 0) and not left_out & set(old)


def test_a_new_image_that_joins_two_kept_splits_is_left_out_and_named():
    images = [image(0), image(1), image(2), image(3)]
    known = {sha(0): "train", sha(1): "test", sha(3): "val"}
    sides, findings = assign(
        images, kept=known, links=[Link(sha(0), sha(2), 3), Link(sha(1), sha(2), 4)]
    )
    assert sides == ["train", "test", "", "val"]
    assert (
        str(findings.examples["linked_splits"][0]) == "2.jpg: belongs to images of train and test"
    )


def test_kept_splits_are_checked_for_leaks_like_given_ones():
    known = {sha(0): "train", sha(1): "test", sha(2): "val"}
    sides, findings = assign([image(0), image(1), image(2)], kept=known, links=chain(0, 1))
    assert sides == ["train", "test", "val"] and findings.counts == {"near_leak": 1}
    images = [image(0), image(1), image(2), image(4)]
    sides, _ = assign(
        images, kept=known | {sha(4): "train"}, links=chain(0, 1), policies={"near_leak": "drop"}
    )
    assert sides == ["", "test", "val", "train"], (
        "what a policy leaves out does not come back on the other side"
    )


def test_an_empty_split_takes_nothing_from_the_kept_ones():
    known = {sha(i): "train" for i in range(3)}
    sides, findings = assign([image(i) for i in range(3)], kept=known)
    assert sides == ["train"] * 3 and findings.counts == {"small_split": 2, "empty_split": 2}
    sides, _ = assign([image(i) for i in range(4)], kept=known)
    assert sides[:3] == ["train"] * 3


def test_images_that_all_resemble_each_other_cannot_be_split_and_the_message_says_why():
    _, findings = assign([image(i) for i in range(20)], links=chain(*range(20)))
    assert "20 of them stay together as near duplicates, copies or one group" in str(
        findings.examples["empty_split"][0]
    )
    _, findings = assign([image(i) for i in range(3)], kept={sha(i): "train" for i in range(3)})
    assert "stay together" not in str(findings.examples["empty_split"][0])


def test_kept_splits_are_read_back(tmp_path):
    sides = {sha(i): side for i, side in enumerate(["train", "val", "test", "train"])}
    file = put(tmp_path / "splits.jsonl", splits_text(sides))
    assert read_kept_splits(file) == read_kept_splits(tmp_path) == sides
    assert splits_text(dict(reversed(sides.items()))) == splits_text(sides)
    put(file, "\ufeff" + splits_text(sides))
    assert read_kept_splits(file) == sides, "an editor put a byte order mark before it"


def test_a_list_of_another_dataset_is_reported():
    _, findings = assign([image(i) for i in range(40)], kept={sha(99): "train", sha(98): "val"})
    assert (
        str(findings.examples["foreign_splits"][0])
        == "2 images are in the list, 40 here, and none in both"
    )
    _, findings = assign([image(i) for i in range(40)], kept={sha(99): "train", sha(0): "train"})
    assert "foreign_splits" not in findings.counts


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "holds no image"),
        ("{}\n", "line 1"),
        ('{"sha256": "a", "split": "dev"}\n', "split 'dev'"),
        ("[1]\n", "line 1"),
        ('{"sha256": "a", "split": "val"}\n{"sha256": "a", "split": "test"}\n', "line 2"),
        ("x\n", "line 1"),
        (
            '{"image":"images/a.png","sha256":"a"}\n',
            "a manifest, which lists one split; data.keep_splits is the splits.jsonl",
        ),
    ],
)
def test_a_wrong_list_of_kept_splits_is_explained(text, message, tmp_path):
    with pytest.raises(DataError, match=message):
        read_kept_splits(put(tmp_path / "splits.jsonl", text))
    with pytest.raises(DataError, match="splits.jsonl of a prepared dataset"):
        read_kept_splits(tmp_path / "nothing")


# --- classes --------------------------------------------------------------------------------------


def skewed(n: int = 400) -> list[Candidate]:
    """One image in twenty shows the rare class 1."""
    return [replace(image(i), classes=(0, 1) if i % 20 == 0 else (0,)) for i in range(n)]


def fractions_of(sides: list[str], images: list[Candidate], index: int) -> dict[str, float]:
    mine = [side for side, candidate in zip(sides, images) if index in candidate.classes]
    return {split: mine.count(split) / len(mine) for split in ("train", "val", "test")}


def uneven_seed() -> int:
    return next(
        seed for seed in range(100) if "uneven_split" in assign(skewed(), seed=seed)[1].counts
    )


def test_a_class_far_from_its_fraction_is_reported_and_by_policy_repaired():
    images, seed = skewed(), uneven_seed()
    sides, findings = assign(images, seed=seed, names=["common", "rare"])
    assert "class 'rare':" in str(findings.examples["uneven_split"][0])
    mended, _ = assign(images, seed=seed, policies={"uneven_split": "fix"})
    for index in (0, 1):
        fractions = fractions_of(mended, images, index)
        assert abs(fractions["val"] - 0.2) <= 0.05 and abs(fractions["test"] - 0.1) <= 0.05
    assert abs(mended.count("val") - 80) <= 2 and abs(mended.count("test") - 40) <= 2
    assert mended == list(
        reversed(assign(images[::-1], seed=seed, policies={"uneven_split": "fix"})[0])
    )


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 12), st.sets(st.integers(0, 4), max_size=3)),
        min_size=30,
        max_size=120,
    ),
    st.integers(0, 3),
)
def test_stratified_split_groups_stay_together_and_sizes_come_near_their_fractions(members, seed):
    """Groups of any content: as near as the largest group allows."""
    images = [(f"g{group}", tuple(classes)) for group, classes in members]
    fractions = {"train": 0.7, "val": 0.2, "test": 0.1}
    hashes = {group: split_hash(seed, group) for group, _ in images}
    chosen = stratified(images, {}, fractions, hashes)
    assert chosen.keys() == hashes.keys() and set(chosen.values()) <= set(fractions)
    fixed = {"g1": "test"} if "g1" in chosen else {}
    again = stratified(images, fixed, fractions, hashes)
    assert fixed.items() <= again.items()


def test_stratified_without_test_asks_for_none():
    images = skewed()
    sides, _ = assign(
        images, seed=uneven_seed(), test_fraction=0.0, policies={"uneven_split": "fix"}
    )
    assert "test" not in sides


# --- groups ---------------------------------------------------------------------------------------


def grouped(tmp_path, **settings) -> tuple[dict[str, str], Findings]:
    findings = Findings.with_policies(settings.pop("policies", {}))
    folder = Folder(tmp_path)
    group = open_groups(DataConfig(**settings), folder, findings)
    return {name: group(name) for name in folder.images}, findings


def test_groups_by_folder_and_by_a_column(tmp_path):
    for name in ("night/a.png", "night/b.png", "day/a.png", "c.png"):
        put(tmp_path / name, "x")
    assert grouped(tmp_path, group_by="folder")[0] == {
        "night/a.png": "night",
        "night/b.png": "night",
        "day/a.png": "day",
        "c.png": "",
    }
    put(tmp_path / "meta.csv", '\ufeffimage,patient\nnight/a.png,p1\nday/a.png,"p,2"\nb.png,p1\n')
    groups, findings = grouped(tmp_path, group_by="patient", group_table="meta.csv")
    assert groups == {"night/a.png": "p1", "night/b.png": "p1", "day/a.png": "p,2", "c.png": ""}
    assert findings.counts == {"no_group": 1} and "is not in meta.csv" in str(
        findings.examples["no_group"][0]
    )


def test_a_table_that_is_none_is_explained(tmp_path):
    put(tmp_path / "meta.csv", "image,patient\na.png,1\n")
    for settings_, error, message in (
        ({"group_table": "meta.csv"}, ConfigError, "needs data.group_by"),
        ({"group_table": "mta.csv", "group_by": "x"}, DataError, "Did you mean 'meta.csv'"),
        (
            {"group_table": "meta.csv", "group_by": "patent"},
            DataError,
            "has no column 'patent'.*Did you mean 'patient'",
        ),
    ):
        with pytest.raises(error, match=message):
            grouped(tmp_path, **settings_)
    with pytest.raises(ConfigError, match="generated dataset has no tables"):
        open_groups(DataConfig(group_table="m.csv", group_by="x"), None, Findings.with_policies({}))


def test_an_image_that_the_pattern_does_not_fit_is_named_and_a_pattern_that_fits_none_is_an_error(
    tmp_path,
):
    for name in ("cam1_a.png", "x/cam2_b.png", "c.png"):
        put(tmp_path / name, "x")
    groups, findings = grouped(tmp_path, group_by=r"^(cam\d)_")
    assert groups == {"cam1_a.png": "cam1", "x/cam2_b.png": "cam2", "c.png": ""}
    assert [str(finding) for finding in findings.examples["no_group"]] == [
        r"c.png: data.group_by '^(cam\\d)_' does not fit its file name"
    ]
    with pytest.raises(
        ConfigError,
        match="'patient' fits none of the file names, the first is c.png.*set data.group_table too",
    ):
        grouped(tmp_path, group_by="patient")


def test_a_table_that_gives_an_image_two_groups_is_refused(tmp_path):
    for name in ("day/a.png", "night/a.png"):
        put(tmp_path / name, "x")
    put(tmp_path / "meta.csv", "image,patient\na.png,p1\na.png,p2\n")
    with pytest.raises(
        DataError, match="meta.csv, line 3: a.png has patient 'p2', and 'p1' further up"
    ):
        grouped(tmp_path, group_by="patient", group_table="meta.csv")
    put(tmp_path / "meta.csv", "image,patient\na.png,p1\na.png,p1\n")
    groups, findings = grouped(tmp_path, group_by="patient", group_table="meta.csv")
    assert groups == {"day/a.png": "p1", "night/a.png": ""} and findings.counts == {"no_group": 1}
    assert "is called a.png as day/a.png is; meta.csv must name both by their path" in str(
        findings.examples["no_group"][0]
    )
    put(tmp_path / "meta.csv", "image,patient\na.png,p1\nnight/a.png,p2\n")
    groups, findings = grouped(tmp_path, group_by="patient", group_table="meta.csv")
    assert groups == {"day/a.png": "p1", "night/a.png": "p2"} and findings.counts == {}


def test_groups_of_a_table_stay_together_in_the_prepared_dataset(tmp_path):
    root = make_voc(
        tmp_path / "voc", {f"i{i}": [("cat", (1, 1, 9, 9))] for i in range(40)}, lists=False
    )
    put(root / "meta.csv", "image,patient\n" + "".join(f"i{i}.png,p{i % 8}\n" for i in range(40)))
    settings_ = DataConfig(group_by="patient", group_table="meta.csv", test_fraction=0.2)
    prepare(load_description(root), tmp_path / "out", settings_)
    records = [
        record for split in SPLITS for record in load_prepared(tmp_path / "out").records(split)
    ]
    assert len({(r.group, r.split) for r in records}) == 8 and len(records) == 40


def test_a_grown_dataset_keeps_the_splits_of_the_earlier_version(tmp_path):
    """The whole way: prepare, keep splits.jsonl, add images, with another seed."""
    root = tmp_path / "voc"
    sides = []
    for n, settings_ in ((30, {}), (50, {"keep_splits": str(tmp_path / "kept.jsonl"), "seed": 9})):
        make_voc(root, {f"i{i}": [("cat", (1, 1, 9, 9))] for i in range(n)}, lists=False)
        prepare(load_description(root), tmp_path / "out", DataConfig(**settings_))
        put(tmp_path / "kept.jsonl", (tmp_path / "out/splits.jsonl").read_bytes())
        sides.append(read_kept_splits(tmp_path / "out"))
    assert sides[0].items() <= sides[1].items() and len(sides[1]) == 50

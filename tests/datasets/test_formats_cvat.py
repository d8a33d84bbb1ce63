"""CVAT XML: shapes of images by hand-made numbers, tracks of videos frame by frame, and what is
said about the rest.
"""

from __future__ import annotations

import tracemalloc
from itertools import chain, repeat

import pytest
from dataset_builders import (
    H,
    W,
    cvat_box,
    cvat_image,
    cvat_xml,
    image_bytes,
    make_cvat,
    make_voc,
    put,
)
from reading import read, rows

from engine.datasets.findings import Findings
from engine.datasets.formats import detect_format, open_reader
from engine.datasets.formats.folder import Folder
from engine.datasets.formats.xml_tree import stream_xml
from engine.errors import DataError


def one_image(root, shapes: str, **options) -> None:
    put(root / "a.png", image_bytes("a"))
    put(root / "annotations.xml", cvat_xml(cvat_image("a.png", shapes, **options)))


# --- shapes ---------------------------------------------------------------------------------------


def test_turned_boxes_become_the_box_around_them(tmp_path):
    # 20 x 10 about (20, 15): a quarter turn swaps the sides; at 45 degrees both half sides are (10
    # + 5) / sqrt(2).
    box = (10, 10, 30, 20)
    one_image(
        tmp_path,
        "".join(
            cvat_box("cat", box, f'rotation="{angle}"')
            for angle in ("0.0", "90.00", "45", "180", "360")
        ),
    )
    images, findings = read(tmp_path)
    assert rows(images["a"]) == [
        ("cat", (10, 10, 30, 20)),
        ("cat", (15, 5, 25, 25)),
        ("cat", (9.393, 4.393, 30.607, 25.607)),
        ("cat", (10, 10, 30, 20)),
        ("cat", (10, 10, 30, 20)),
    ]
    assert findings == {} and images["a"].size == (H, W)


def test_polygons_become_the_box_around_them(tmp_path):
    one_image(tmp_path, '<polygon label="dog" points="1.5,2;30,4.25;12,20" occluded="0"/>')
    assert rows(read(tmp_path)[0]["a"]) == [("dog", (1.5, 2, 30, 20))]


def test_what_is_outside_and_tags_of_whole_images_are_no_boxes(tmp_path):
    one_image(
        tmp_path,
        cvat_box("cat", (1, 1, 9, 9), 'outside="1"') + '<tag label="dark" source="manual"/>',
    )
    images, findings = read(tmp_path)
    assert images["a"].rows == () and findings == {}


OTHER = """<ellipse label="cat" cx="20" cy="16" rx="10" ry="4" rotation="90"/>
<mask label="dog" rle="3, 5" left="4" top="2" width="6" height="8"/>
<cuboid label="cat" xtl1="1" ytl1="2" xbl1="1" ybl1="9" xtr1="8" ytr1="2" xbr1="8" ybr1="9"
 xtl2="3" ytl2="1" xbl2="3" ybl2="7" xtr2="12" ytr2="1" xbr2="12" ybr2="7"/>
<points label="cat" points="1,2"/>
<polyline label="cat" points="1,2;5,6"/>
<skeleton label="cat"><points label="head" points="3,4"/></skeleton>
"""


def test_other_shapes_are_a_finding_and_boxes_only_by_policy(tmp_path):
    one_image(tmp_path, OTHER)
    images, findings = read(tmp_path)
    assert images["a"].rows == ()
    assert [text.split(":")[0] for text in findings["other_shape"]] == [
        f"annotations.xml, line {line}" for line in (6, 7, 8, 10, 11, 12)
    ]
    images, findings = read(tmp_path, policies={"other_shape": "fix"})
    assert rows(images["a"]) == [
        ("cat", (16, 6, 24, 26)),
        ("dog", (4, 2, 10, 10)),
        ("cat", (1, 1, 12, 9)),
    ]
    assert len(findings["other_shape"]) == 6


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (
            '<box label="cat" xtl="nan" ytl="1" xbr="2" ybr="3"/>',
            "<box>: xtl is 'nan', not a number",
        ),
        ('<box label="cat" xtl="1" ytl="1" xbr="2"/>', "<box>: ybr is missing"),
        (
            '<box label="cat" xtl="1" ytl="1" xbr="2" ybr="3" rotation="left"/>',
            "<box>: rotation is 'left', not a number",
        ),
        ('<box xtl="1" ytl="1" xbr="2" ybr="3"/>', "a <box> without label"),
        (
            '<polygon label="cat" points="1,2;3,4"/>',
            "<polygon>: 2 corners, a polygon has at least 3",
        ),
        ('<polygon label="cat" points="1,2;3;5,6"/>', "<polygon>: '3' is no point x,y"),
        ('<polygon label="cat"/>', "<polygon>: 1 corners, a polygon has at least 3"),
        ('<blob label="cat"/>', "<blob> is no shape of CVAT"),
    ],
)
def test_shapes_that_make_no_sense_are_named_with_their_line(shape, message, tmp_path):
    one_image(tmp_path, cvat_box("dog", (1, 1, 9, 9)) + shape)
    images, findings = read(tmp_path)
    assert findings == {"bad_entry": [f"annotations.xml, line 7: {message}"]}
    assert [row.name for row in images["a"].rows] == ["dog"]


# --- images, subsets, labels ----------------------------------------------------------------------


def test_labels_come_from_the_task_without_those_of_skeletons(tmp_path):
    put(tmp_path / "a.png", image_bytes("a"))
    labels = "<label><name>dog</name></label><label><name>knee</name><parent>dog</parent></label><label><name>cat</name></label>"
    put(
        tmp_path / "x.xml",
        f"<annotations><version>1.1</version><meta><job><labels>{labels}</labels></job></meta></annotations>",
    )
    assert open_reader(Folder(tmp_path), "cvat", Findings.with_policies({})).names == ("dog", "cat")


def test_a_subset_of_the_whole_task_is_the_split_of_its_images(tmp_path):
    for split in ("Train", "Validation"):
        put(tmp_path / split / "images/x.png", image_bytes(split))
        image = cvat_image(f"{split}/images/x.png", "")
        put(tmp_path / split / "annotations.xml", cvat_xml(image, task=f"<subset>{split}</subset>"))
    reader = open_reader(Folder(tmp_path), None, Findings.with_policies({}))
    assert reader.gives_splits
    assert {image.name: image.split for image in reader} == {
        "Train/images/x.png": "train",
        "Validation/images/x.png": "val",
    }


def test_equal_names_in_the_folders_of_two_subsets(tmp_path):
    """As CVAT exports a project: images/<subset>/<name>."""
    images = ""
    for subset in ("train", "test"):
        put(tmp_path / "images" / subset / "x.png", image_bytes(subset))
        images += cvat_image("x.png", cvat_box(subset, (0, 0, 8, 8)), subset)
    put(
        tmp_path / "annotations.xml",
        cvat_xml(images, task="<subset>train</subset><subset>test</subset>"),
    )
    reader = open_reader(Folder(tmp_path), None, Findings.with_policies({}))
    assert {image.name: (image.split, image.rows[0].name) for image in reader} == {
        "images/train/x.png": ("train", "train"),
        "images/test/x.png": ("test", "test"),
    }


def test_given_lists_or_none_replace_the_subsets(tmp_path):
    make_cvat(tmp_path)
    put(tmp_path / "mine.txt", "d\n")
    assert {
        name: image.split
        for name, image in read(tmp_path, splits={"train": "mine.txt"})[0].items()
        if image.split
    } == {"d": "train"}
    assert not any(image.split for image in read(tmp_path, splits="none")[0].values())


def test_an_image_described_twice_and_one_that_leaves_the_folder(tmp_path):
    put(tmp_path / "a.png", image_bytes("a"))
    images = (
        cvat_image("a.png", "")
        + cvat_image("a.png", "")
        + cvat_image("../a.png", "")
        + cvat_image("", "")
    )
    put(tmp_path / "annotations.xml", cvat_xml(images))
    found = read(tmp_path)[1]
    assert found["duplicate_entry"] == [
        "annotations.xml, line 7: describes a.png, as annotations.xml does"
    ]
    assert found["outside_folder"] == [
        "annotations.xml, line 9: name '../a.png' leaves the dataset folder"
    ]
    assert found["bad_entry"] == ["annotations.xml, line 11: an <image> without name"]


def test_frames_of_a_video_exported_as_images_have_no_suffix(tmp_path):
    put(tmp_path / "images/frame_000000.PNG", image_bytes("0"))
    put(
        tmp_path / "annotations.xml",
        cvat_xml(cvat_image("frame_000000", cvat_box("cat", (1, 1, 9, 9)))),
    )
    images, findings = read(tmp_path)
    assert rows(images["frame_000000"]) == [("cat", (1, 1, 9, 9))] and findings == {}


# --- videos ---------------------------------------------------------------------------------------


def video(root, tracks: str, frames=range(4), folder: str = "images") -> None:
    for frame in frames:
        put(root / folder / f"frame_{frame:06d}.PNG", image_bytes(f"{frame}"))
    size = f"<original_size><width>{W}</width><height>{H}</height></original_size>"
    put(root / "annotations.xml", cvat_xml(tracks, task=size))


def track(number: int, label: str, frames: dict[int, tuple], outside: tuple[int, ...] = ()) -> str:
    shapes = "".join(
        f'<box frame="{f}" keyframe="1" outside="{int(f in outside)}" xtl="{b[0]}" ytl="{b[1]}" '
        f'xbr="{b[2]}" ybr="{b[3]}"/>\n'
        for f, b in frames.items()
    )
    return f'<track id="{number}" label="{label}">\n{shapes}</track>\n'


def test_tracks_become_the_boxes_of_every_frame(tmp_path):
    cat = {0: (1, 1, 9, 9), 1: (2, 1, 10, 9), 2: (3, 1, 11, 9)}
    video(tmp_path, track(0, "cat", cat, outside=(2,)) + track(1, "dog", {1: (20, 2, 40, 30)}))
    images, findings = read(tmp_path)
    assert {name: rows(image) for name, image in images.items()} == {
        "frame_000000": [("cat", (1, 1, 9, 9))],
        "frame_000001": [("cat", (2, 1, 10, 9)), ("dog", (20, 2, 40, 30))],
        "frame_000002": [],
        "frame_000003": [],  # nobody is in the image, and that is an annotation too
    }
    assert findings == {} and {image.size for image in images.values()} == {(H, W)}


def test_a_track_with_keyframes_only_is_refused_where_frames_between_exist(tmp_path):
    video(tmp_path, track(7, "cat", {0: (1, 1, 9, 9), 3: (4, 1, 12, 9)}))
    detail = "track 7 'cat' says nothing about frame 1, between 0 and 3; export all its frames"
    assert read(tmp_path)[1] == {"bad_entry": [f"annotations.xml, line 6: {detail}"]}


def test_a_track_over_every_tenth_frame_of_which_only_those_are_images(tmp_path):
    video(tmp_path, track(0, "cat", {0: (1, 1, 9, 9), 10: (4, 1, 12, 9)}), frames=(0, 10))
    images, findings = read(tmp_path)
    assert sorted(images) == ["frame_000000", "frame_000010"] and findings == {}


def test_frames_without_images(tmp_path):
    video(tmp_path, track(0, "cat", {0: (1, 1, 9, 9), 1: (1, 1, 9, 9)}), frames=(0,))
    assert read(tmp_path)[1] == {
        "missing_image": ["annotations.xml, line 7: there is no image frame_000001"]
    }
    (tmp_path / "images/frame_000000.PNG").rename(tmp_path / "images/first.png")
    found = read(tmp_path)[1]
    assert found["missing_image"] == [
        "annotations.xml: describes a video and there are no images frame_000000, frame_000001, "
        "...; export it with its images"
    ]


def test_each_video_has_its_own_frames(tmp_path):
    for place, label in (("one", "cat"), ("two", "dog")):
        video(tmp_path / place, track(0, label, {0: (1, 1, 9, 9)}), frames=(0,))
    reader = open_reader(Folder(tmp_path), None, Findings.with_policies({}))
    assert {image.name: image.rows[0].name for image in reader} == {
        "one/images/frame_000000.PNG": "cat",
        "two/images/frame_000000.PNG": "dog",
    }


def test_frame_numbers_that_make_no_sense(tmp_path):
    shapes = '<box frame="x" outside="0" xtl="1" ytl="1" xbr="9" ybr="9"/>\n<box frame="0" xtl="1" ytl="1" xbr="9" ybr="9"/>\n'
    video(
        tmp_path,
        f'<track id="5" label="cat">\n{shapes}<box frame="0" xtl="2" ytl="1" xbr="9" '
        'ybr="9"/>\n</track>',
    )
    assert read(tmp_path)[1] == {
        "bad_entry": ["annotations.xml, line 6: frame 'x' is no frame number"],
        "duplicate_entry": ["annotations.xml, line 8: track 5 has two shapes on frame 0"],
    }


# --- telling it from others -----------------------------------------------------------------------


def test_it_is_distinguished_from_voc_and_both_together_are_named(tmp_path):
    make_cvat(tmp_path / "cvat")
    assert detect_format(Folder(tmp_path / "cvat")) == "cvat"
    make_voc(tmp_path / "both")
    put(tmp_path / "both/annotations.xml", (tmp_path / "cvat/annotations.xml").read_bytes())
    with pytest.raises(DataError, match="voc and cvat; write a description"):
        detect_format(Folder(tmp_path / "both"))


def test_files_of_another_kind_are_named_where_the_format_was_given(tmp_path):
    make_cvat(tmp_path)
    put(tmp_path / "more.xml", "\n<annotation/>")
    detail = "more.xml, line 2: its root is <annotation>, CVAT has <annotations>"
    assert read(tmp_path, "cvat")[1] == {"unreadable_annotation": [detail]}


def test_a_large_file_is_read_piece_by_piece(tmp_path):
    """A fault far down does not hide what stands before it, and is found with its line."""
    put(tmp_path / "a.png", image_bytes("a"))
    shapes = cvat_box("cat", (1, 1, 9, 9)) * 2000
    put(
        tmp_path / "annotations.xml",
        cvat_xml(cvat_image("a.png", shapes) + f"<image>\n{shapes}</imge>"),
    )
    images, findings = read(tmp_path)
    assert len(images["a"].rows) == 2000
    assert findings["unreadable_annotation"] == [
        "annotations.xml: not well-formed XML (mismatched tag, line 4008)"
    ]


def test_memory_does_not_grow_with_the_file():
    image = cvat_image("a.png", cvat_box("cat", (1, 1, 9, 9)) * 4).encode()
    tracemalloc.start()
    count = sum(
        1 for _ in stream_xml(chain([b"<annotations>"], repeat(image, 5000), [b"</annotations>"]))
    )
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 5001 and peak < 1 << 19, f"{peak} bytes for {len(image) * 5000} of XML"

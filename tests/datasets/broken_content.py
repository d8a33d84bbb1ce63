"""Broken images, links, boxes and splits; the format plays no part."""

from __future__ import annotations

import io
import os
import zlib
from pathlib import Path

import cv2
import numpy as np
from broken import A_PNG, A_XML, case, edit
from dataset_builders import H, W, image_bytes, make_voc, put, voc_xml
from PIL import Image

# --- images ---------------------------------------------------------------------------------------


@case(make_voc, "missing_image", A_XML, "its image 'a.png' is not there")
def missing_image(root):
    (root / A_PNG).unlink()


@case(make_voc, "missing_image", A_XML, "there is JPEGImages/A.PNG: upper and lower case matter")
def image_in_other_case(root):
    (root / A_PNG).rename(root / "JPEGImages/A.PNG")


@case(
    make_voc,
    "missing_image",
    A_XML,
    "'a.gif' is not there; JPEGImages/a.gif is, but images are .bmp .jpeg",
)
def image_of_another_kind(root):
    (root / A_PNG).rename(root / "JPEGImages/a.gif")
    edit(root / A_XML, "a.png", "a.gif")


@case(make_voc, "missing_image", A_XML, "'a.png' is not there")
def folder_with_the_name_of_an_image(root):
    (root / A_PNG).unlink()
    (root / A_PNG).mkdir()


@case(make_voc, "unreadable_image", A_PNG, "the file is empty")
def image_of_zero_bytes(root):
    put(root / A_PNG, b"")


@case(make_voc, "unreadable_image", A_PNG, "truncated")
def truncated_jpeg(root):
    put(root / A_PNG, image_bytes("a", suffix=".jpg")[:-200])


@case(make_voc, "unreadable_image", "JPEGImages/a.jpg", "the file is empty")
def jpeg_of_zero_bytes(root):
    (root / A_PNG).unlink()
    put(root / "JPEGImages/a.jpg", b"")
    edit(root / A_XML, "a.png", "a.jpg")


@case(make_voc, "missing_image", A_XML, "'a.jpg' is not there")
def folder_called_jpg(root):
    (root / A_PNG).unlink()
    put(root / "JPEGImages/a.jpg/a.txt", "")
    edit(root / A_XML, "a.png", "a.jpg")


@case(make_voc, "unreadable_image", A_PNG)
def truncated_png(root):
    put(root / A_PNG, image_bytes("a")[:-500])


@case(make_voc, "unreadable_image", A_PNG, "no known image format")
def text_called_png(root):
    put(root / A_PNG, "404 not found")


@case(make_voc, "unreadable_image", A_PNG, "more than 179 million pixels; cut it into tiles")
def image_that_claims_to_be_huge(root):
    data = bytearray(image_bytes("a"))
    data[16:24] = (60_000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    put(root / A_PNG, bytes(data))


@case(make_voc, "several_pages", A_PNG, "holds 3 pages or frames")
def tiff_of_three_pages_called_png(root):
    page = Image.open(root / A_PNG)
    page.load()
    page.save(root / A_PNG, "TIFF", save_all=True, append_images=[page, page])


@case(make_voc, "dark_image", A_PNG, "its brightest pixel has grey level 15 of 255")
def twelve_bits_in_sixteen(root):
    levels = np.random.default_rng(0).integers(0, 4096, (32, 64), np.uint16)
    put(root / A_PNG, cv2.imencode(".png", levels)[1].tobytes())


@case(
    make_voc, "unreadable_image", A_PNG, "its pixels are 32-bit numbers; save it with 8 or 16 bits"
)
def numbers_of_32_bits(root):
    put(root / A_PNG, cv2.imencode(".tif", np.full((32, 64), 99, np.int32))[1].tobytes())


@case(make_voc, "unreadable_image", A_PNG, "no known image format")
def postscript_called_png(root):
    Image.open(root / A_PNG).convert("RGB").save(root / A_PNG, "EPS")


@case(make_voc, "unreadable_image", A_PNG, "a link to nothing")
def image_that_links_to_nothing(root):
    (root / A_PNG).unlink()
    (root / A_PNG).symlink_to(root / "nowhere.png")


@case(make_voc, "unreadable_image", A_PNG, "no regular file")
def image_that_is_a_pipe(root):
    (root / A_PNG).unlink()
    os.mkfifo(root / A_PNG)


@case(make_voc, "unreadable_image", A_PNG)
def image_that_links_to_itself(root):
    (root / A_PNG).unlink()
    (root / A_PNG).symlink_to(root / A_PNG)


@case(make_voc, "link_loop", "JPEGImages/up", "leads back to a folder above it")
def folder_link_in_a_circle(root):
    (root / "JPEGImages/up").symlink_to(root)


@case(
    make_voc,
    "link_outside",
    "JPEGImages/a.png",
    "leads out of the dataset folder",
    "link_outside=warn (the link is followed)",
)
def image_that_links_out_of_the_folder(root):
    (root / A_PNG).rename(root.parent / "elsewhere.png")
    (root / A_PNG).symlink_to(root.parent / "elsewhere.png")


@case(make_voc, "link_outside", "JPEGImages/more", "leads out of the dataset folder")
def folder_that_links_out_of_the_folder(root):
    put(root.parent / "elsewhere/x.png", image_bytes("x"))
    (root / "JPEGImages/more").symlink_to(root.parent / "elsewhere")


@case(make_voc, "link_outside", A_XML, "leads out of the dataset folder")
def annotation_that_links_out_of_the_folder(root):
    (root / A_XML).rename(root.parent / "a.xml")
    (root / A_XML).symlink_to("../../a.xml")


@case(make_voc, "unreadable_image", A_PNG, "its pixels are floats")
def image_of_floats(root):
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((H, W), np.float32)).save(buffer, "TIFF")
    put(root / A_PNG, buffer.getvalue())


@case(
    make_voc,
    "exif_rotation",
    A_XML,
    "says 32 x 64 (h x w)",
    "is 64 x 32 after its EXIF rotation (orientation 6)",
)
def annotation_made_before_the_exif_rotation(root):
    buffer, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    Image.open(root / A_PNG).save(buffer, "PNG", exif=exif)
    put(root / A_PNG, buffer.getvalue())


@case(make_voc, "unlabelled_image", "JPEGImages/new.png", "has no XML file")
def image_without_annotation(root):
    put(root / "JPEGImages/new.png", image_bytes("new"))


@case(make_voc, "duplicate_image", "JPEGImages/c.png", "is the same as JPEGImages/a.png")
def same_image_twice_in_a_split(root):
    put(root / "JPEGImages/c.png", image_bytes("a"))


@case(make_voc, "empty_image", "JPEGImages/f.png", "has no boxes")
def image_without_boxes(root):
    pass  # the whole dataset has one


# --- boxes ----------------------------------------------------------------------------------------


def relabel(root: Path, *boxes: tuple) -> None:
    put(root / A_XML, voc_xml("a", list(boxes)))


@case(make_voc, "zero_area", A_XML, "'cat' [8, 8, 8, 20] has no area")
def box_without_width(root):
    relabel(root, ("cat", (8, 8, 8, 20)))


@case(
    make_voc,
    "inverted_box",
    A_XML,
    "[20, 30, 4, 2] has its corners swapped",
    "the corners are swapped",
)
def swapped_corners(root):
    relabel(root, ("cat", (20, 30, 4, 2)))


@case(make_voc, "outside_image", A_XML, "reaches outside the image of 32 x 64 (h x w)")
def box_over_the_edge(root):
    relabel(root, ("cat", (-3, 8, 20, 20)))


@case(make_voc, "outside_image", A_XML, "lies wholly outside")
def box_outside(root):
    relabel(root, ("cat", (70, 8, 90, 20)), ("cat", (1, 1, 9, 9)))


@case(make_voc, "outside_image", A_XML)
def box_of_absurd_size(root):
    relabel(root, ("cat", (-1e300, 8, 1e300, 20)))


@case(make_voc, "duplicate_box", A_XML, "repeats line 4")
def same_box_twice(root):
    relabel(root, ("cat", (4, 2, 20, 30)), ("cat", (4, 2, 20, 30.5)))


# --- splits ---------------------------------------------------------------------------------------


@case(make_voc, "split_without_boxes", "split val", "none of its images has a box")
def split_with_only_empty_images(root):
    put(root / "Annotations/d.xml", voc_xml("d", []))


@case(make_voc, "empty_split", "split val", "has no images")
def empty_split_list(root):
    put(root / "ImageSets/Main/val.txt", "")


@case(make_voc, "not_in_split", "JPEGImages/c.png")
def image_in_no_list(root):
    put(root / "ImageSets/Main/train.txt", "a\nb\nf\n")


@case(make_voc, "missing_image", "ImageSets/Main/train.txt, line 5", "'ghost' is listed")
def listed_and_not_there(root):
    with open(root / "ImageSets/Main/train.txt", "a") as file:
        file.write("ghost\n")


@case(
    make_voc,
    "split_leak",
    "ImageSets/Main/val.txt, line 2",
    "'a' is also in ImageSets/Main/train.txt, line 1",
)
def image_in_two_lists(root):
    put(root / "ImageSets/Main/val.txt", "d\na\n")


@case(
    make_voc,
    "split_leak",
    "JPEGImages/a.png",
    "(in train) is the same image as JPEGImages/e.png (in test)",
)
def same_bytes_in_two_splits(root):
    put(root / "JPEGImages/e.png", image_bytes("a"))


@case(make_voc, "outside_folder", "ImageSets/Main/val.txt, line 2")
def list_that_climbs_out(root):
    put(root / "ImageSets/Main/val.txt", "d\n../../x\n")

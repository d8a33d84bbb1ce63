"""Shards of a batch prediction are made anew where a file is another one."""

import os
import time

import pytest

from engine.files import file_state
from engine.stages.batch_predict import plan


@pytest.mark.parametrize("way", ["in place", "put in place"])
def test_a_file_of_the_same_size_and_time_makes_another_shard(tmp_path, way):
    weights, image, other = (tmp_path / name for name in ("best.pt", "a.png", "b.png"))
    for path, content in ((weights, b"w"), (image, b"one"), (other, b"two")):
        path.write_bytes(content)

    def shard():
        return plan([image], weights, {"conf": 0.4}, tmp_path, 10)[0].out

    before, first = image.stat(), shard()
    assert shard() == first
    time.sleep(0.05)  # the kernel's clock of files has steps of some milliseconds
    if way == "in place":
        image.write_bytes(b"two")
        os.utime(image, ns=(before.st_atime_ns, before.st_mtime_ns))
    else:
        os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
        os.replace(other, image)
    after = image.stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert file_state(after) != file_state(before) and shard() != first

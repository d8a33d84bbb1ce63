"""A small labelled dataset on disk, and what a model might see in it."""

import cv2
import numpy as np
from dataset_builders import cvat_box, cvat_image, cvat_xml, put

from engine.metrics.image_matches import make_sample
from engine.types import Detections

CLASSES = ("cat", "dog")
BOX, FAR = [10.0, 10.0, 50.0, 60.0], [70.0, 20.0, 110.0, 90.0]
SIZE = (100, 120)


def dataset(root, images, seed=0, names=("cat",)):
    """A CVAT folder with a box in each image, of no two images alike."""
    rng = np.random.default_rng(seed)
    entries = []
    for i in range(images):
        coarse = rng.integers(0, 255, (5, 6, 3), np.uint8)
        image = cv2.resize(coarse, SIZE[::-1], interpolation=cv2.INTER_CUBIC)
        put(root / f"{i}.png", cv2.imencode(".png", image)[1].tobytes())
        entries.append(cvat_image(f"{i}.png", cvat_box(names[0], BOX), size=SIZE))
    known = CLASSES if names == ("cat",) else names  # its first class is that of every box
    put(root / "annotations.xml", cvat_xml("".join(entries), list(known)))
    return root


def sample_of(record, boxes, scores, names):
    kinds = np.array([CLASSES.index(name) for name in names], np.int64)
    found = Detections(np.array(boxes, np.float64).reshape(-1, 4), np.array(scores), kinds)
    return make_sample(found, record, len(CLASSES))

"""A labelled folder of two classes."""

import cv2
import numpy as np
from dataset_builders import cvat_box, cvat_image, cvat_xml, put

BOX = [10.0, 10.0, 50.0, 50.0]
SIZE = (64, 64)


def dataset(root, images, names):
    """A CVAT folder with a box in each image, of no two images alike."""
    rng = np.random.default_rng(0)
    entries = []
    for i in range(images):
        coarse = rng.integers(0, 255, (5, 5, 3), np.uint8)
        image = cv2.resize(coarse, SIZE, interpolation=cv2.INTER_CUBIC)
        put(root / f"{i}.png", cv2.imencode(".png", image)[1].tobytes())
        entries.append(cvat_image(f"{i}.png", cvat_box(names[i % 2], BOX), size=SIZE))
    put(root / "annotations.xml", cvat_xml("".join(entries), list(names)))
    return root

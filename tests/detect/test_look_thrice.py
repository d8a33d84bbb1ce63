"""Three looks at an image: a stand-in that finds the one bright rectangle says where it was seen."""

import torch

from engine.detect.look_thrice import LOOKS, look_thrice


def bright(images):
    """Boxes (B, 1, 4) around what is above one half, scores (B, 1, 1)."""
    boxes = []
    for image in images:
        y, x = torch.nonzero(image.mean(0) > 0.6, as_tuple=True)
        boxes.append([x.min(), y.min(), x.max() + 1, y.max() + 1])
    return torch.tensor(boxes).float()[:, None], torch.ones(len(images), 1, 1)


def test_every_look_says_where_it_is_in_the_image():
    images = torch.zeros(2, 3, 200, 300)
    images[0, :, 40:120, 20:100] = 1
    images[1, :, 100:180, 150:290] = 1
    boxes, scores = look_thrice(bright, images)
    assert boxes.shape == (2, len(LOOKS), 4) and scores.shape == (2, len(LOOKS), 1)
    wanted = torch.tensor([[20.0, 40, 100, 120], [150, 100, 290, 180]])[:, None]
    assert torch.equal(boxes[:, :1], wanted) and (boxes - wanted).abs().max() < 2


def test_the_input_keeps_its_size_and_what_is_beside_is_grey():
    seen = []

    def look(images):
        seen.append(images)
        return torch.zeros(len(images), 0, 4), torch.zeros(len(images), 0, 1)

    look_thrice(look, torch.ones(1, 3, 64, 96))
    assert [each.shape for each in seen] == [(1, 3, 64, 96)] * 3
    assert torch.equal(seen[2][0, :, -1, -1], torch.full((3,), 114 / 255))

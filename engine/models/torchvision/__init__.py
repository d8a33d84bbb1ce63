"""Detectors of torchvision as a family: built by torchvision's own code, with fresh weights.

What is ours: images come normalised by the module and in the size they are given, classes count
from 0, dense networks give boxes and scores of all anchors. Knows no other family and no trainer.
"""

# Library whose code is part of these networks -> the setting of section train with which it is,
# "" for always, `key=WORD` where its value begins so: another version of it may be another network
# (read by engine.code.rooms).
NETWORKS_OF = {"torchvision": ""}

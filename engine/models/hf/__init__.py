"""Detectors of Hugging Face's `transformers` as a family: built, matched and weighed by the
library's own code, from a folder that `save_pretrained` wrote.

What is ours: images come normalised by the module and in the size they are given, boxes and scores
come out in pixels, tied weights are stored once. Nothing here asks the network. The library comes
with the extra `hf`.
"""

# Library whose code is part of these networks -> the setting of section train with which it is,
# "" for always: another version of it may be another network (read by engine.code.rooms).
NETWORKS_OF = {"transformers": ""}
NAMES_ANYTHING = True  # behind "hf:" (read by engine.code.rooms)

"""Under which licence a network's weights are, and whether that is one that everybody may use.

What the hub's page of a model says counts. The table adds what no page says: on which data the
published detectors were trained. The library's own code is Apache-2.0.
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatch
from typing import Any

from engine.errors import ConfigError

# SPDX names, as the hub writes them: use, change and sale allowed, also of what is trained from it.
FREE = {
    *("apache-2.0", "mit", "mit-0", "bsd", "bsd-2-clause", "bsd-3-clause", "bsd-3-clause-clear"),
    *("isc", "zlib", "unlicense", "0bsd", "cc0-1.0", "cc-by-4.0", "cc-by-3.0", "ecl-2.0"),
}
# Repositories -> on what they were trained, as their authors say. COCO: annotations CC BY 4.0,
# photographs from Flickr under its users' terms. Objects365: annotations CC BY 4.0, photographs
# for research by its terms.
TRAINED_ON = (
    ("torchvision:*rcnn*", "COCO 2017"),
    ("torchvision:*ssd*", "COCO 2017"),
    ("torchvision:retinanet*", "COCO 2017"),
    ("torchvision:fcos*", "COCO 2017"),
    ("torchvision:*", "ImageNet-1k"),
    ("timm/*.*in22k_ft_in1k*", "ImageNet-22k, ImageNet-1k"),
    ("timm/*.*in12k_ft_in1k*", "ImageNet-12k, ImageNet-1k"),
    ("timm/*in1k*", "ImageNet-1k"),
    ("ustc-community/dfine-*-obj2coco*", "Objects365, COCO 2017"),
    ("ustc-community/dfine-*-obj365*", "Objects365"),
    ("ustc-community/dfine-*", "COCO 2017"),
    ("PekingU/rtdetr_*_coco_o365", "Objects365, COCO 2017"),
    ("PekingU/rtdetr_*", "COCO 2017"),
    ("Roboflow/rf-detr-*", "Objects365, COCO 2017; backbone DINOv2 (LVD-142M)"),
    ("Intellindust/DEIMv2_DINOv3*", "COCO 2017; backbone DINOv3 (LVD-1689M)"),
    ("facebook/detr-*", "COCO 2017"),
)
# Weights whose page names a free licence, and which hold parts under another.
PARTS = (("dinov3", "dinov3-license"),)  # kinds of networks -> licence
NOT_FREE = (
    ("Intellindust/DEIMv2_DINOv3*", "dinov3-license"),
    # Roboflow's Platform Model License 1.0; sizes nano to large are Apache-2.0
    ("Roboflow/rf-detr-xlarge*", "PML-1.0"),
    ("Roboflow/rf-detr-xxlarge*", "PML-1.0"),
    ("Roboflow/rf-detr-2xlarge*", "PML-1.0"),
)


def licence_of_card(card: Mapping[str, Any]) -> str:
    """What the head of a model's page states; of several, all."""
    said = card.get("license") or card.get("licence") or ""
    names = [str(each) for each in said] if isinstance(said, list) else [str(said)]
    if names == ["other"] and card.get("license_name"):  # whatever it is called, it is its own
        return f"other: {card['license_name']}"
    return ", ".join(names)


def is_free(licence: str) -> bool:
    """Whether each of the licences that a text names is free."""
    return bool(licence) and all(name.strip().lower() in FREE for name in licence.split(","))


def licence_of(source: Mapping[str, Any]) -> str:
    """The licence that decides, "" where none is stated. source: of `hub.source_of`; `part` of it:
    the licence of a part of the network, where that is another.
    """
    if part := source.get("part"):
        return str(part)
    repo = source.get("repo", "")
    for pattern, licence in NOT_FREE:
        if fnmatch(repo.lower(), pattern.lower()):
            return licence
    return str(source.get("licence", ""))


def licence_of_parts(config: Mapping[str, Any]) -> str:
    """A licence that parts of a network have wherever they are published, by the configuration of
    transformers; "" where there is none.
    """
    kind = str(config.get("model_type", ""))
    for start, licence in PARTS:
        if kind.startswith(start):
            return licence
    below = (licence_of_parts(each) for each in config.values() if isinstance(each, Mapping))
    return next(filter(None, below), "")


def trained_on(source: Mapping[str, Any]) -> str:
    """The data of a known repository, "" of others."""
    repo = source.get("repo", "").lower()
    return next((data for pattern, data in TRAINED_ON if fnmatch(repo, pattern.lower())), "")


def check_licence(what: str, source: Mapping[str, Any], accepted: str | None) -> None:
    """ConfigError where weights are not under a free licence and nobody accepted it. A folder that
    states none is the user's own.

    what: the setting that names them, `model='hf:...'`. accepted: the setting train.accept_licence.
    """
    licence = licence_of(source)
    is_accepted = (accepted or "").lower() == (licence.lower() or "unstated")
    is_own = "repo" not in source and not licence
    if is_own or is_free(licence) or is_accepted:
        return
    stated = f"states the licence '{licence}'" if licence else "states no licence"
    where = "its page on the hub" if "repo" in source else "its README.md"
    if source.get("part"):
        stated, where = f"are under the licence '{licence}'", "weights of its backbone's kind"
    raise ConfigError(
        f"{what}: {where} {stated}, which is not among those that everybody may "
        f"use ({', '.join(sorted(FREE)[:4])}, ...). Read it; where it allows your use write "
        f"train.accept_licence: {licence or 'unstated'}. It is recorded with every model trained "
        "from it"
    )

"""Which licences pass, which must be accepted by name."""

import pytest

from engine.errors import ConfigError
from engine.models.hub.licences import check_licence, licence_of, trained_on


@pytest.mark.parametrize(
    ("repo", "licence", "accepted"),
    [
        ("ustc-community/dfine-nano-coco", "apache-2.0", None),
        ("a/b", "MIT", None),
        ("a/b", "agpl-3.0", "agpl-3.0"),
        ("a/b", "", "unstated"),
        ("Roboflow/rf-detr-large", "apache-2.0", None),
        ("Roboflow/rf-detr-xlarge", "apache-2.0", "PML-1.0"),
        ("intellindust/DEIMv2_DINOv3_S_COCO", "apache-2.0", "dinov3-license"),
    ],
)
def test_free_or_accepted(repo, licence, accepted):
    check_licence(f"model='hf:{repo}'", {"repo": repo, "licence": licence}, accepted)


@pytest.mark.parametrize(
    ("repo", "licence", "accepted", "said"),
    [
        ("a/b", "agpl-3.0", None, "accept_licence: agpl-3.0"),
        ("a/b", "agpl-3.0", "mit", "accept_licence: agpl-3.0"),
        ("a/b", "", None, "accept_licence: unstated"),
        ("a/b", "cc-by-nc-4.0", None, "cc-by-nc-4.0"),
        ("Roboflow/rf-detr-xlarge", "apache-2.0", None, "accept_licence: PML-1.0"),
        ("roboflow/rf-detr-2xlarge", "", None, "accept_licence: PML-1.0"),
        # its page says Apache-2.0, its backbone is Meta's
        ("Intellindust/DEIMv2_DINOv3_S_COCO", "apache-2.0", None, "dinov3-license"),
    ],
)
def test_not_free_and_not_accepted(repo, licence, accepted, said):
    with pytest.raises(ConfigError, match=said):
        check_licence(f"model='hf:{repo}'", {"repo": repo, "licence": licence}, accepted)


def test_a_folder_of_ones_own_is_asked_nothing():
    check_licence("hf:./mine", {"digest": "abc"}, None)
    assert licence_of({"digest": "abc"}) == "" and trained_on({"digest": "abc"}) == ""


def test_the_data_of_known_detectors():
    assert trained_on({"repo": "ustc-community/dfine-nano-coco"}) == "COCO 2017"
    assert "Objects365" in trained_on({"repo": "ustc-community/dfine-small-obj2coco"})
    assert "DINOv2" in trained_on({"repo": "Roboflow/rf-detr-nano"})

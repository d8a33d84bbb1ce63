"""How rare a new class starts in every kind of detector that `transformers` builds: the focal prior
where each class has a probability of its own; with a column for no object the library's start."""

import hf_networks
import pytest
import torch
import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES

from engine.config import DetectionTrainConfig
from engine.models.hf.family import HfFamily

FAMILY = HfFamily()
SIDE = 128
SMALL = dict(
    d_model=32,
    encoder_layers=1,
    decoder_layers=2,
    encoder_ffn_dim=32,
    decoder_ffn_dim=32,
    encoder_attention_heads=2,
    decoder_attention_heads=2,
    num_queries=12,
    dropout=0.0,
    use_timm_backbone=False,
    backbone=None,
    auxiliary_loss=True,
)
RESNET = dict(
    embedding_size=8, hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1], layer_type="basic"
)


def resnet(*stages):
    return transformers.ResNetConfig(out_features=[f"stage{i}" for i in stages], **RESNET)


def rt_detr():
    backbone = transformers.RTDetrResNetConfig(out_indices=[3, 4], **RESNET)
    return transformers.RTDetrConfig(
        backbone_config=backbone,
        encoder_in_channels=[24, 32],
        hidden_expansion=0.5,
        decoder_n_points=2,
        **hf_networks.COMMON,
    )


def lw_detr():
    backbone = transformers.LwDetrViTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=64,
        pretrain_image_size=64,
        patch_size=16,
        window_block_indices=[0],
        num_windows=4,
        out_features=["stage1", "stage2"],
    )
    return transformers.LwDetrConfig(
        backbone_config=backbone,
        d_model=32,
        decoder_ffn_dim=32,
        decoder_layers=2,
        decoder_self_attention_heads=2,
        decoder_cross_attention_heads=2,
        decoder_n_points=2,
        num_queries=12,
        group_detr=2,
        projector_scale_factors=[1.0],
        hidden_expansion=0.5,
        c2f_num_blocks=1,
        dropout=0.0,
    )


def dab_detr():
    small = {k: v for k, v in SMALL.items() if k not in ("d_model", "use_timm_backbone")}
    return transformers.DabDetrConfig(
        hidden_size=32, use_timm_backbone=False, backbone_config=resnet(4), **small
    )


def yolos():
    return transformers.YolosConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=[SIDE, SIDE],
        num_detection_tokens=12,
    )


OWN = {  # a probability of each class
    "d_fine": hf_networks.d_fine,
    "rt_detr": rt_detr,
    "rt_detr_v2": hf_networks.rt_detr_v2,
    "rf_detr": hf_networks.rf_detr,
    "lw_detr": lw_detr,
    "dab-detr": dab_detr,
    "conditional_detr": lambda: transformers.ConditionalDetrConfig(
        backbone_config=resnet(4), **SMALL
    ),
    "deformable_detr": lambda: transformers.DeformableDetrConfig(
        backbone_config=resnet(2, 3, 4), num_feature_levels=3, **SMALL
    ),
}
SOFTMAX = {
    "detr": hf_networks.detr,
    "table-transformer": lambda: transformers.TableTransformerConfig(
        backbone_config=resnet(4), **SMALL
    ),
    "yolos": yolos,
}
# DEIMv2 has no small form here; the others find text and parts of pages.
NOT_BUILT = {"deimv2", *(n for n in MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES if n[:3] == "pp_")}


def test_every_kind_is_looked_at():
    assert {*OWN, *SOFTMAX, *NOT_BUILT} == set(MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES)


@pytest.mark.parametrize("kind", [*OWN, *SOFTMAX])
def test_new_classes_start_rare(kind, tmp_path):
    config = {**OWN, **SOFTMAX}[kind]()
    config.id2label = {0: "red", 1: "blue", 2: "third"}
    config.label2id = {"red": 0, "blue": 1, "third": 2}
    torch.manual_seed(0)
    library = transformers.AutoModelForObjectDetection.from_config(config)
    library.save_pretrained(tmp_path)
    model = f"hf:{tmp_path}"
    spec = FAMILY.spec(model, DetectionTrainConfig(model=model, imgsz=SIDE))
    module = FAMILY.build(spec, 2)
    fresh = {name: value.clone() for name, value in module.state_dict().items()}
    moved = FAMILY.start(module, spec, ("red", "green"))
    assert moved.new == ("green",) and [name for name, *_ in moved.classes] == ["red"]
    theirs, mine = library.state_dict(), module.state_dict()
    rows = FAMILY.class_rows(module, spec, 2)
    biases = {name: at for name, at in rows.items() if mine[name].ndim == 1}
    assert biases and all(at.behind == (kind in SOFTMAX) for at in biases.values())
    for name in biases:
        assert mine[name][0] == theirs[name][0]
        if kind in SOFTMAX:
            assert mine[name][1] == fresh[name][1] and mine[name][2] == theirs[name][3]
        else:
            assert float(mine[name][1].sigmoid()) == pytest.approx(0.01, rel=1e-4), name

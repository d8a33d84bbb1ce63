"""The published detectors of `transformers` as configurations of the library, with no weights: what
benchmarks measure and tests build where there is no hub.

HGNetV2, D-FINE: arXiv 2410.13842; RT-DETRv2: 2407.17140; RF-DETR: 2511.09554 and the library's
converter of its weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import transformers

CLASSES = 80

# HGNetV2: stem, then of each stage channels in, within, out, blocks; layers of a block.
HGNET = {
    "b0": (
        [3, 16, 16],
        [(16, 16, 64, 1), (64, 32, 256, 1), (256, 64, 512, 2), (512, 128, 1024, 1)],
        3,
    ),
    "b2": (
        [3, 24, 32],
        [(32, 32, 96, 1), (96, 64, 384, 1), (384, 128, 768, 3), (768, 256, 1536, 1)],
        4,
    ),
    "b4": (
        [3, 32, 48],
        [(48, 48, 128, 1), (128, 96, 512, 1), (512, 192, 1024, 3), (1024, 384, 2048, 1)],
        6,
    ),
}
DFINE = {  # backbone, maps, width, depth_mult, hidden_expansion, decoder layers, points
    "nano": ("b0", 2, 128, 0.5, 0.34, 3, [6, 6]),
    "small": ("b0", 3, 256, 0.34, 0.5, 3, [3, 6, 3]),
    "medium": ("b2", 3, 256, 0.67, 1.0, 4, [3, 6, 3]),
    "large": ("b4", 3, 256, 1.0, 1.0, 6, [3, 6, 3]),
}
RTDETR = {  # layer, depths, hidden sizes, encoder width, feed-forward, expansion, decoder layers
    "r18vd": ("basic", [2, 2, 2, 2], [64, 128, 256, 512], 256, 1024, 0.5, 3),
    "r34vd": ("basic", [3, 4, 6, 3], [64, 128, 256, 512], 256, 1024, 0.5, 4),
    "r50vd": ("bottleneck", [3, 4, 6, 3], [256, 512, 1024, 2048], 256, 1024, 1.0, 6),
    "r101vd": ("bottleneck", [3, 4, 23, 3], [256, 512, 1024, 2048], 384, 2048, 1.0, 6),
}
RFDETR = {  # px it was trained at, decoder layers; the backbone is DINOv2-S in all
    "nano": (384, 2),
    "small": (512, 3),
    "medium": (576, 4),
    "large": (704, 4),
}


def d_fine(size: str) -> transformers.PretrainedConfig:
    name, maps, width, depth, expansion, layers, points = DFINE[size]
    stem, stages, per_block = HGNET[name]
    into, within, out, blocks = zip(*stages, strict=True)
    backbone = transformers.HGNetV2Config(
        out_indices=list(range(5 - maps, 5)),
        stem_channels=stem,
        stage_in_channels=list(into),
        stage_mid_channels=list(within),
        stage_out_channels=list(out),
        hidden_sizes=list(out),
        stage_num_blocks=list(blocks),
        stage_downsample=[False, True, True, True],
        stage_light_block=[False, False, True, True],
        stage_kernel_size=[3, 3, 5, 5],
        stage_numb_of_layers=[per_block] * 4,
        use_learnable_affine_block=name != "b4",
    )
    return transformers.DFineConfig(
        backbone_config=backbone,
        encoder_in_channels=list(out[-maps:]),
        encoder_hidden_dim=width,
        encoder_ffn_dim=512 if size == "nano" else 1024,
        encode_proj_layers=[maps - 1],
        feat_strides=[8, 16, 32][-maps:],
        d_model=width,
        decoder_in_channels=[width] * maps,
        decoder_ffn_dim=512 if size == "nano" else 1024,
        num_feature_levels=maps,
        decoder_n_points=points,
        decoder_layers=layers,
        depth_mult=depth,
        hidden_expansion=expansion,
        num_labels=CLASSES,
    )


def rt_detr(size: str) -> transformers.PretrainedConfig:
    layer, depths, hidden, width, ffn, expansion, layers = RTDETR[size]
    backbone = transformers.RTDetrResNetConfig(
        layer_type=layer,
        depths=depths,
        hidden_sizes=hidden,
        out_features=["stage2", "stage3", "stage4"],
    )
    return transformers.RTDetrV2Config(
        backbone_config=backbone,
        encoder_in_channels=hidden[1:],
        encoder_hidden_dim=width,
        encoder_ffn_dim=ffn,
        hidden_expansion=expansion,
        decoder_layers=layers,
        decoder_in_channels=[width] * 3,
        num_labels=CLASSES,
    )


def rf_detr(size: str) -> transformers.PretrainedConfig:
    side, layers = RFDETR[size]
    backbone = transformers.RfDetrDinov2Config(
        hidden_size=384,
        num_hidden_layers=12,
        num_attention_heads=6,
        image_size=side,
        patch_size=16,
        num_windows=2,
        out_features=["stage3", "stage6", "stage9", "stage12"],
    )
    return transformers.RfDetrConfig(
        backbone_config=backbone,
        d_model=256,
        num_queries=300,
        decoder_self_attention_heads=8,
        decoder_cross_attention_heads=16,
        decoder_n_points=2,
        decoder_layers=layers,
        num_labels=CLASSES,
    )


# Name on the hub -> the function and its word.
PUBLISHED: Mapping[str, tuple[Callable[[str], Any], str]] = {
    **{f"ustc-community/dfine-{size}-coco": (d_fine, size) for size in DFINE},
    **{f"PekingU/rtdetr_v2_{size}": (rt_detr, size) for size in RTDETR},
    **{f"Roboflow/rf-detr-{size}": (rf_detr, size) for size in RFDETR},
}


def published(name: str) -> dict[str, Any]:
    """The content of config.json, of 80 classes. name: of the hub, or of the catalogue."""
    make, size = PUBLISHED[name.removeprefix("hf:").partition("@")[0]]
    return make(size).to_dict()

"""Memory of a training batch of 16 images at 640 px, for the table of `detectflow models`, and the
number of parameters.

Counted, not watched: the bytes that autograd keeps of one image for the way back, times 16, and
five copies of the weights (weights, gradients, Adam's two moments, averaged weights), all float32.
A GPU takes more: its library's workspace, and what lies unused in its allocator.

    python benchmarks/training_memory.py [PART OF A NAME]
"""

from __future__ import annotations

import sys

import torch
import transformers

from engine.config import DetectionTrainConfig
from engine.models.catalogue import CATALOGUE
from engine.models.registry import family_of

SIDE, BATCH, COPIES, CLASSES = 640, 16, 5, 80
BOXES = 8  # of the drawn image

# The published sizes, as configurations of the library. HGNetV2: stem, then of each stage channels
# in, within, out, blocks, layers; D-FINE 2410.13842, RT-DETRv2 2407.17140.
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


def measured(name: str) -> tuple[float, float]:
    """(millions of parameters, GB)."""
    config = DetectionTrainConfig(
        model=name.partition("@")[0] if name.startswith("torch") else name
    )
    if name.startswith("hf:"):
        family = family_of(name)
        kind = name.rpartition("/")[2]
        made = d_fine(kind.split("-")[1]) if "dfine" in kind else rt_detr(kind.rpartition("_")[2])
        plain = made.to_dict()
        spec = {
            "name": name,
            "config": plain,
            "mean": [0, 0, 0],
            "std": [1, 1, 1],
            "losses": ["loss_vfl"],
        }
    else:
        family = family_of(config.model)
        spec = family.spec(config.model, config)
    module = family.build(spec, CLASSES).train()
    weights = sum(p.numel() for p in module.parameters())
    boxes = torch.rand(BOXES, 4) * 0.3 + 0.2
    batch = {
        "img": torch.rand(1, 3, SIDE, SIDE),
        "bboxes": boxes,
        "cls": torch.zeros(BOXES, 1),
        "batch_idx": torch.zeros(BOXES),
    }
    own = {p.untyped_storage().data_ptr() for p in module.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        preds = family.forward(module, batch)
        loss, _ = family.criterion(spec, config)(preds, batch)
    assert loss.requires_grad
    return weights / 1e6, (sum(kept.values()) * BATCH + weights * 4 * COPIES) / 1e9


def main(argv: list[str]) -> None:
    torch.manual_seed(0)
    for entry in CATALOGUE:
        if not argv or argv[0] in entry.name:
            params, memory = measured(entry.name)
            print(f"{entry.name}: {params:.1f} M parameters, {memory:.1f} GB", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])

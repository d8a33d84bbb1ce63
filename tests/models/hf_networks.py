"""Small networks of `transformers`, made here with random weights as `save_pretrained` writes
them."""

import torch
import transformers
from transformers import AutoModelForObjectDetection

COMMON = dict(
    encoder_hidden_dim=32,
    encode_proj_layers=[1],
    encoder_ffn_dim=32,
    encoder_attention_heads=2,
    d_model=32,
    decoder_in_channels=[32, 32],
    num_feature_levels=2,
    decoder_layers=2,
    decoder_ffn_dim=32,
    decoder_attention_heads=2,
    num_queries=12,
    num_denoising=10,
    feat_strides=[16, 32],
)


def d_fine():
    backbone = transformers.HGNetV2Config(
        out_indices=[3, 4],
        stem_channels=[3, 8, 8],
        stage_in_channels=[8, 16, 24, 32],
        stage_mid_channels=[8, 8, 8, 8],
        stage_out_channels=[16, 24, 32, 48],
        hidden_sizes=[16, 24, 32, 48],
        stage_num_blocks=[1, 1, 1, 1],
        stage_downsample=[False, True, True, True],
        stage_light_block=[False, False, True, True],
        stage_kernel_size=[3, 3, 3, 3],
        stage_numb_of_layers=[1, 1, 1, 1],
        use_learnable_affine_block=True,
    )
    return transformers.DFineConfig(
        backbone_config=backbone,
        encoder_in_channels=[32, 48],
        hidden_expansion=0.34,
        depth_mult=0.34,
        decoder_n_points=[2, 2],
        freeze_backbone_batch_norms=False,
        **COMMON,
    )


def rt_detr_v2():
    backbone = transformers.RTDetrResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 16, 24, 32],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_indices=[3, 4],
    )
    return transformers.RTDetrV2Config(
        backbone_config=backbone,
        encoder_in_channels=[24, 32],
        hidden_expansion=0.5,
        decoder_n_points=2,
        decoder_n_levels=2,
        **COMMON,
    )


def detr():
    """The first DETR: softmax with a column of no object."""
    backbone = transformers.ResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 16, 24, 32],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=["stage4"],
    )
    return transformers.DetrConfig(
        use_timm_backbone=False,
        backbone=None,
        backbone_config=backbone,
        num_queries=12,
        encoder_layers=1,
        decoder_layers=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        d_model=32,
        dropout=0.0,
        auxiliary_loss=True,
    )


def rf_detr():
    """Patches of 8 px in 2x2 windows, one map at stride 8."""
    backbone = transformers.RfDetrDinov2Config(
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        image_size=48,
        patch_size=8,
        num_windows=2,
        out_features=["stage2", "stage4"],
    )
    return transformers.RfDetrConfig(
        backbone_config=backbone,
        d_model=32,
        decoder_ffn_dim=32,
        decoder_n_points=2,
        decoder_layers=2,
        decoder_self_attention_heads=2,
        decoder_cross_attention_heads=2,
        num_queries=12,
        group_detr=3,
        dropout=0.0,
        c2f_num_blocks=1,
    )


KINDS = {"d_fine": d_fine, "rt_detr_v2": rt_detr_v2, "rf_detr": rf_detr, "detr": detr}


def save(folder, kind="d_fine", names=("red", "blue"), seed=0):
    """A folder of such a network; returns the library's own module in eval mode."""
    config = KINDS[kind]()
    config.id2label = dict(enumerate(names))
    config.label2id = {name: number for number, name in enumerate(names)}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = AutoModelForObjectDetection.from_config(config)
        with torch.no_grad():  # livelier than a fresh one: no two queries alike
            for parameter in network.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.05)
    network.save_pretrained(folder)
    return network.eval()

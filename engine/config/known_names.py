"""Settings by the names that users of Ultralytics and YOLOv5 know them by, one table a section:
the same here, called otherwise here, or not here and why.

Names and meanings are those of the documented arguments. What means the same is accepted; all else
is refused by `engine.settings.base` with the sentence that stands here. The page
docs/reference/known-names.md shows the tables.
"""

from __future__ import annotations

from typing import Any

from engine.config.device import of_training
from engine.settings.known_name import KnownName

Table = dict[str, KnownName]


def _same(names: str) -> list[KnownName]:
    return [KnownName(name, here=name) for name in names.split()]


def _as(name: str, here: str, meaning: str, how: str = "", **more: Any) -> KnownName:
    return KnownName(name, meaning, here, how, **more)


def _not(name: str, meaning: str, how: str, **more: Any) -> KnownName:
    """Not here; switched off it means what happens here anyway."""
    return KnownName(name, meaning, "", how, **{"off_is_ours": True, **more})


def _table(*rows: KnownName | list[KnownName]) -> Table:
    flat = [each for row in rows for each in (row if isinstance(row, list) else [row])]
    assert len({row.name for row in flat}) == len(flat)
    return {row.name: row for row in flat}


def _share_of_memory(value: Any) -> dict[str, Any] | None:
    is_share = isinstance(value, float) and 0 < value < 1
    return {"batch": -1, "batch_memory": value} if is_share else None


def _resumed(value: Any) -> dict[str, Any] | None:
    is_file = isinstance(value, str) and value.endswith(".pt")
    return {"resume": True, "model": value} if is_file else None


def _all_of(value: Any) -> dict[str, Any] | None:
    return {} if value is None else None


ALWAYS = {"true": {}}  # what happens here in any case

_OTHER_TASK = "it is for segmentation, poses or turned boxes; here are detectors only. Leave it out"
_COMMAND = "the command says it: detectflow train, val, predict, track, export or tune"

_EVERYWHERE = [
    _not("task", "what is found", "every model here is a detector", values={"detect": {}}),
    _not("mode", "what is done", _COMMAND, off_is_ours=False),
    _not(
        "cfg",
        "a file of settings",
        "`detectflow train settings=FILE` reads one; in Python load it and pass its values",
    ),
    _not("dnn", "run ONNX with OpenCV", "ONNX files run in onnxruntime"),
    _not("visualize", "draw feature maps", "no feature maps are drawn"),
    _not("compile", "torch.compile", "nothing is compiled; channels_last=true is the fast way"),
    _not("end2end", "head without NMS", "the networks here use NMS: iou sets its overlap"),
    _not("retina_masks", "masks at full size", _OTHER_TASK),
]

TRAIN: Table = _table(
    _same(
        "model data epochs patience imgsz save_period workers project name exist_ok pretrained "
        "seed deterministic verbose single_cls close_mosaic amp fraction lr0 lrf momentum "
        "weight_decay warmup_epochs warmup_momentum warmup_bias_lr box cls dfl nbs plots max_det "
        "hsv_h hsv_s hsv_v degrees translate scale shear perspective flipud fliplr mosaic mixup "
        "cutmix"
    ),
    _as(
        "batch",
        "batch",
        "images per step, -1, or a fraction of the GPU's memory",
        "A fraction is batch=-1 with batch_memory.",
        read=_share_of_memory,
    ),
    _as(
        "device",
        "device",
        "GPU by number, cpu",
        "[0,1] is device=cuda nproc=2.",
        read=of_training,
    ),
    _as(
        "resume",
        "resume",
        "go on with a run, or with that of a checkpoint",
        "A path is model=PATH resume=true.",
        read=_resumed,
    ),
    _as(
        "cache",
        "cache",
        "keep images in memory",
        "true is ram, false is none.",
        values={"true": {"cache": "ram"}, "false": {"cache": "none"}},
    ),
    _as(
        "optimizer",
        "optimizer",
        "SGD, Adam, Adamax, AdamW, NAdam, RAdam, RMSProp, auto",
        "In any case; MuSGD is not here.",
    ),
    _as(
        "freeze",
        "freeze",
        "the first N layers, or layers by number",
        "Also names: freeze=[backbone].",
        read=lambda value: {"freeze": []} if value is None else None,
    ),
    _as(
        "multi_scale",
        "multi_scale",
        "vary the input size",
        "true is 0.5.",
        values={"true": {"multi_scale": 0.5}, "false": {"multi_scale": 0.0}},
    ),
    _as(
        "cos_lr",
        "schedule",
        "learning rate along a cosine",
        "true is schedule=cosine, the default here; false is schedule=linear.",
        values={"true": {"schedule": "cosine"}, "false": {"schedule": "linear"}},
    ),
    _as(
        "time",
        "time_limit_minutes",
        "most hours of training",
        "It is in minutes: time=2 is time_limit_minutes=120. The run ends cleanly after the epoch "
        "and keeps the schedule of all its epochs.",
        read=_all_of,
    ),
    _as(
        "val",
        "val_period",
        "validate while it trains",
        "true is what happens. Without: val_period=N with N as large as epochs; the last epoch is "
        "always validated.",
        values=ALWAYS,
    ),
    _as(
        "save",
        "save_period",
        "write checkpoints",
        "last.pt and best.pt are always written; save_period=N keeps more.",
        values=ALWAYS,
    ),
    _as("conf", "val_conf", "lowest score in validation", read=_all_of),
    _as("iou", "val_iou", "overlap of NMS in validation"),
    _as("cls_pw", "class_weights", "weights of classes by how rare they are", off_is_ours=True),
    _not(
        "save_dir",
        "folder of the run",
        "it is project/name: project=FOLDER name=NAME",
    ),
    _not(
        "rect",
        "batches of oblong images of one shape",
        "all batches have one shape, which may be oblong: imgsz=[HEIGHT,WIDTH]",
    ),
    _not(
        "classes",
        "train on some of the classes",
        "classes are chosen where the data are prepared: data.class_map in params.yaml maps those "
        "to leave out to null",
    ),
    _not(
        "split",
        "images of the validation",
        "training validates on val; `detectflow val split=test` measures others",
        values={"val": {}},
    ),
    _not("profile", "measure ONNX speed while training", "export measures the speed of its files"),
    _not("half", "half precision", "training has amp=true; exported files are float32"),
    _not(
        "copy_paste",
        "copy objects by their outlines",
        "it needs outlines of the objects, and here are boxes; mosaic, mixup and cutmix mix images",
    ),
    _not("copy_paste_mode", "how copy_paste copies", "copy_paste needs outlines of the objects"),
    _not("bgr", "swap the colour channels", "colours vary by hsv_h, hsv_s and hsv_v"),
    _not("auto_augment", "policy of changes", "it is for classification; leave it out"),
    _not("erasing", "erase a part", "it is for classification; leave it out"),
    _not("augmentations", "Albumentations", "override get_dataloader for transforms of your own"),
    _not("dropout", "dropout", "it is for classification; leave it out"),
    _not("label_smoothing", "smooth the classes", "the loss here has soft targets anyway"),
    *[
        _not(name, meaning, _OTHER_TASK)
        for name, meaning in {
            "overlap_mask": "masks may overlap",
            "mask_ratio": "size of masks",
            "pose": "gain of the pose loss",
            "kobj": "gain of key points",
            "rle": "gain of the pose loss",
            "angle": "gain of the angle loss",
        }.items()
    ],
    _not(
        "save_json",
        "detections as COCO JSON",
        "`detectflow predict save_json=true` writes detections",
    ),
    _not("source", "what to predict on", "a training has data=; source= is for predict"),
    _as("batch_size", "batch", "images per step (YOLOv5 and others)"),
    _as("img", "imgsz", "input size (YOLOv5)"),
    _as("img_size", "imgsz", "input size (YOLOv5)"),
    _as("weights", "model", "weights to start from (YOLOv5)"),
    _as("lr", "lr0", "learning rate"),
    _as("learning_rate", "lr0", "learning rate"),
    _as("max_epochs", "epochs", "passes over the images"),
    _as("num_workers", "workers", "loader processes"),
    _as("early_stopping", "patience", "stop where nothing gets better"),
    _not("hyp", "file of hyper-parameters (YOLOv5)", "`detectflow train settings=FILE` reads one"),
    _not("evolve", "search for settings (YOLOv5)", "`detectflow tune` searches"),
    _EVERYWHERE,
)

PREDICT: Table = _table(
    _same(
        "model source conf iou imgsz batch max_det classes agnostic_nms project name stream "
        "verbose save save_json save_frames save_txt save_conf save_crop show show_boxes "
        "show_labels show_conf line_width half augment vid_stride"
    ),
    _as("device", "device", "GPU by number, cpu", "One GPU: device=0."),
    _not(
        "rect",
        "least padding",
        "images are padded to the input size, which may be oblong: imgsz=[HEIGHT,WIDTH]",
    ),
    _not("stream_buffer", "queue the frames of a stream", "frames come as the stream gives them"),
    _not("embed", "vectors of features", "no features are given out"),
    _not("tracker", "file of a tracker's settings", "`detectflow track` follows objects"),
    _not("persist", "go on with the tracks of before", "it is for `track`"),
    _not("exist_ok", "write into a folder that exists", "a number is appended to its name"),
    _not("save_dir", "folder of the run", "it is project/name: project=FOLDER name=NAME"),
    _not("data", "names of the classes", "the weights bring the names of their classes"),
    _as("conf_thres", "conf", "lowest score (YOLOv5)"),
    _as("iou_thres", "iou", "overlap of NMS (YOLOv5)"),
    _as("weights", "model", "weights (YOLOv5)"),
    _as("img", "imgsz", "input size (YOLOv5)"),
    _as("batch_size", "batch", "images per step"),
    _EVERYWHERE,
)

_OF_TRACKERS = [
    _not("fuse_score", "weigh overlaps by scores", "overlaps alone join boxes"),
    _not("gmc_method", "allow for a moving camera", "the camera is taken to stand still"),
    _not("with_reid", "compare looks", "overlaps alone join boxes"),
]

TRACK: Table = _table(
    [row for row in PREDICT.values() if row.name not in {"tracker", "persist"}],
    _not(
        "tracker",
        "file of a tracker's settings",
        "there is ByteTrack, whose settings are those of track",
        values={"bytetrack.yaml": {}},
    ),
    _not(
        "persist",
        "go on with the tracks of before",
        "it is an argument of `track` in Python; a command follows all of its source",
    ),
    _as("track_high_thresh", "new_track_conf", "score of sure boxes", "One score for both."),
    _as("new_track_thresh", "new_track_conf", "score of a new track"),
    _as("track_low_thresh", "conf", "score of unsure boxes"),
    _as("track_buffer", "track_buffer_s", "frames", "In seconds: 30 at 30 frames a second is 1."),
    _as("match_thresh", "track_iou", "largest distance", "Distance is 1 - IoU: 0.8 is 0.2."),
    _OF_TRACKERS,
)

VALIDATE: Table = _table(
    _same("batch conf iou max_det workers plots split"),
    # of the command beside the section
    _same("model data project name"),
    _as("device", "device", "GPU by number, cpu", "One GPU: device=0."),
    _not(
        "imgsz",
        "input size",
        "a model is measured at the size that it was trained with; train or export it with another",
    ),
    _not(
        "rect",
        "least padding",
        "images are padded to the input size, so that the metrics do not depend on the batches",
    ),
    _not("half", "half precision", "metrics are measured in float32"),
    _not("augment", "average over flips and sizes", "a model is measured as it is used"),
    _not("agnostic_nms", "NMS over all classes together", "COCO's metrics need each class alone"),
    _not("single_cls", "all classes as one", "train with single_cls=true"),
    _not(
        "classes",
        "only some of the classes",
        "per_class.csv has the metrics of each class",
    ),
    _not(
        "save_json",
        "detections as COCO JSON",
        "`detectflow predict save_json=true` writes detections",
    ),
    _not("save_txt", "boxes as text files", "`detectflow predict save_txt=true` writes them"),
    _not("save_conf", "scores in the text files", "`detectflow predict save_txt=true` writes them"),
    _not("save_hybrid", "labels and detections together", "labels never mix with detections"),
    _not("verbose", "a line per class", "per_class.csv has a line per class", values=ALWAYS),
    _not("exist_ok", "write into a folder that exists", "a number is appended to its name"),
    _not("save_dir", "folder of the run", "it is project/name: project=FOLDER name=NAME"),
    _as("conf_thres", "conf", "lowest score (YOLOv5)"),
    _as("iou_thres", "iou", "overlap of NMS (YOLOv5)"),
    _as("weights", "model", "weights (YOLOv5)"),
    _as("batch_size", "batch", "images per step"),
    _EVERYWHERE,
)

EXPORT: Table = _table(
    _same("imgsz batch dynamic opset"),
    _same("model format data"),  # of the command beside the section
    _not("half", "16-bit floats", "files are float32, compared with PyTorch before they count"),
    _not("int8", "8-bit integers", "files are float32, compared with PyTorch before they count"),
    _not("simplify", "simpler ONNX graph", "PyTorch's exporter simplifies it", values=ALWAYS),
    _not("nms", "NMS within the file", "the file gives all candidates; predict removes doubles"),
    _not("keras", "TensorFlow's Keras", "there is no TensorFlow here: format=onnx"),
    _not("optimize", "for mobile devices", "there is no TorchScript here: format=onnx"),
    _not("workspace", "memory of TensorRT", "TensorRT reads the ONNX file: trtexec --onnx=FILE"),
    _not("fraction", "part of the data for int8", "check_images=N says how many are compared"),
    _not("device", "GPU by number, cpu", "files are written on the CPU", values={"cpu": {}}),
    _as("include", "formats", "formats (YOLOv5)"),
    _as("weights", "model", "weights (YOLOv5)"),
    _as("batch_size", "batch", "images in the example"),
    _EVERYWHERE,
)

SECTIONS: dict[str, Table] = {
    "train": TRAIN,
    "validate": VALIDATE,
    "predict": PREDICT,
    "track": TRACK,
    "export": EXPORT,
}
COMMANDS = {
    "train": "train",
    "validate": "val",
    "predict": "predict",
    "track": "track",
    "export": "export",
}


def _with_the_others(section: str) -> Table:
    """The table of a section, and what the others know beside it: there every mode takes all."""
    own, others = SECTIONS[section], {}
    for other, table in SECTIONS.items():
        for name, row in table.items():
            if name not in own and name not in others:
                how = f"`detectflow {COMMANDS[other]}` has it" if row.here else row.how
                others[name] = _not(name, row.meaning or f"of {COMMANDS[other]}", how)
    return {**own, **others}


ANSWERS: dict[str, Table] = {section: _with_the_others(section) for section in SECTIONS}

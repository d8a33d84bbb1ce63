"""What the public documentation and tutorials of Ultralytics' Python API show, as people paste it:
only the import is another, and the trainings are short. `WORK` run as they are; `REFUSED` end in a
sentence that names the way here, a piece of which stands beside each.

Written from memory of public usage; names of methods, attributes and arguments are facts.
"""

HEAD = """
import math
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image

from engine import YOLO
"""
LOADED = 'model = YOLO("yolov8n.pt")\n'
SEEN = LOADED + 'results = model("bus.jpg")\n'
SHORT = "imgsz=64, batch=4, plots=False, verbose=False, device='cpu'"

WORK = {
    # Models -------------------------------------------------------------------------------------
    "load a trained model": LOADED + 'assert model.task == "detect"',
    "load from a path": 'model = YOLO(Path("yolov8n.pt"))',
    "load with a task": 'model = YOLO("yolov8n.pt", task="detect", verbose=False)',
    "build from yaml": 'model = YOLO("yolov8n.yaml")',
    "build from yaml, take weights": """
model = YOLO("yolov8n.yaml").load("yolov8n.pt")
assert model("bus.jpg")[0].names[0] == "square"
""",
    "names": LOADED
    + """
assert model.names[0] == "square"
for index, name in model.names.items():
    assert model.names[index] == name
assert list(model.names.values()) == ["square", "disc"]
assert [k for k, v in model.names.items() if v == "disc"] == [1]
""",
    "info": LOADED
    + """
layers, parameters, gradients, gflops = model.info()
assert parameters > 3_000_000 and gflops > 0
model.info(detailed=True)
""",
    "fuse": LOADED + 'model.fuse()\nresults = model("bus.jpg")\nassert len(results) == 1',
    "to a device": LOADED
    + """
device = "cuda" if torch.cuda.is_available() else "cpu"
model.to(device)
print(f"Using device: {model.device}")
assert model.device.type == device
""",
    "the network": LOADED
    + """
network = model.model
assert isinstance(network, torch.nn.Module)
total = sum(p.numel() for p in network.parameters())
assert total == sum(p.numel() for p in model.parameters())
names = model.model.names
assert names[0] == "square"
for name, parameter in model.named_parameters():
    parameter.requires_grad = not name.startswith("backbone")
assert set(model.state_dict()) == set(network.state_dict())
""",
    "save": LOADED + 'model.save("copy.pt")\nassert YOLO("copy.pt").names == model.names',
    "where the weights are": LOADED + 'assert str(model.ckpt_path).endswith("yolov8n.pt")',
    # Sources ------------------------------------------------------------------------------------
    "a path": LOADED + 'results = model("bus.jpg")\nassert len(results) == 1',
    "predict by name": LOADED + 'results = model.predict(source="bus.jpg")',
    "predict with settings": LOADED
    + 'model.predict("bus.jpg", save=True, imgsz=64, conf=0.5)\n'
    + 'assert Path("runs/predict/bus.jpg").is_file()',
    "a list of paths": LOADED
    + 'results = model(["bus.jpg", "zidane.jpg"])\nassert len(results) == 2',
    "a list of mixed images": LOADED
    + """
results = model([cv2.imread("bus.jpg"), Image.open("bus.jpg"), "bus.jpg"])
assert len({tuple(r.boxes.conf.tolist()) for r in results}) == 1
""",
    "OpenCV": LOADED + 'image = cv2.imread("bus.jpg")\nresults = model(image)',
    "PIL": LOADED + 'image = Image.open("bus.jpg")\nresults = model(source=image)',
    "numpy noise": LOADED
    + 'image = np.random.randint(low=0, high=255, size=(640, 640, 3), dtype="uint8")\n'
    + "results = model(image, imgsz=64)",
    "tensor": LOADED
    + """
source = torch.rand(1, 3, 64, 64, dtype=torch.float32)
results = model(source)
assert results[0].orig_shape == (64, 64)
""",
    "tensor of an image": LOADED
    + """
array = cv2.cvtColor(cv2.imread("bus.jpg"), cv2.COLOR_BGR2RGB)
tensor = torch.from_numpy(array).permute(2, 0, 1).unsqueeze(0).float() / 255.0
assert torch.equal(model(tensor)[0].boxes.data, model("bus.jpg")[0].boxes.data)
""",
    "a folder": LOADED + 'results = model("images")\nassert len(results) == 2',
    "a folder with a slash": LOADED + 'results = model.predict("images/", verbose=False)',
    "a pattern": LOADED
    + 'results = model("images/*.jpg", stream=True)\nassert len(list(results)) == 2',
    "a list file": LOADED + 'results = model("list.txt")\nassert len(results) == 2',
    "a video as a stream": LOADED
    + """
for result in model("video.mp4", stream=True):
    boxes = result.boxes
    frame = result.plot()
    assert frame.shape == (64, 64, 3)
""",
    "a video, every second frame": LOADED
    + 'results = list(model.predict("video.mp4", stream=True, vid_stride=2))\n'
    + "assert len(results) == 3",
    "frames by OpenCV": LOADED
    + """
cap = cv2.VideoCapture("video.mp4")
while cap.isOpened():
    success, frame = cap.read()
    if success:
        results = model(frame)
        annotated_frame = results[0].plot()
    else:
        break
cap.release()
""",
    "stream of a folder": LOADED
    + """
results = model(["bus.jpg", "zidane.jpg"], stream=True)
for result in results:
    boxes = result.boxes
    masks = result.masks
    keypoints = result.keypoints
    probs = result.probs
    obb = result.obb
    assert boxes is not None and masks is keypoints is probs is obb is None
""",
    # Settings -----------------------------------------------------------------------------------
    "only some classes": LOADED
    + 'results = model.predict("bus.jpg", classes=[0])\n'
    + "assert set(results[0].boxes.cls.tolist()) <= {0.0}",
    "one class": LOADED + 'results = model.predict("bus.jpg", classes=0)',
    "thresholds": LOADED
    + 'results = model.predict("bus.jpg", conf=0.3, iou=0.5, max_det=2, agnostic_nms=True)\n'
    + "assert len(results[0].boxes) <= 2",
    "half": LOADED + 'results = model.predict("bus.jpg", half=True)',
    "augment": LOADED + 'results = model.predict("bus.jpg", augment=True)',
    "batch": LOADED + 'results = model.predict("images", batch=2)',
    "oblong input": LOADED + 'results = model.predict("bus.jpg", imgsz=(64, 96))',
    "on the CPU": LOADED + 'results = model.predict("bus.jpg", device="cpu")',
    "show": LOADED + 'results = model.predict("bus.jpg", show=True)',
    "labels as text": LOADED
    + """
results = model.predict("bus.jpg", save_txt=True, save_conf=True)
lines = Path("runs/predict/labels/bus.txt").read_text().splitlines()
assert len(lines) == len(results[0].boxes) and len(lines[0].split()) == 6
""",
    "crops": LOADED
    + """
results = model.predict("bus.jpg", save_crop=True, name="crops")
assert list(Path(results[0].save_dir).glob("crops/*/bus*.jpg"))
""",
    "how it is drawn": LOADED
    + 'model.predict("bus.jpg", save=True, line_width=1, show_labels=False, show_conf=False)',
    "boxes not drawn": LOADED + 'model.predict("bus.jpg", save=True, show_boxes=False)',
    # Results ------------------------------------------------------------------------------------
    "show and save": SEEN
    + """
for result in results:
    result.show()
    result.save(filename="result.jpg")
assert Path("result.jpg").is_file()
""",
    "save without a name": SEEN + "results[0].save()",
    "corners of each box": SEEN
    + """
for r in results:
    for box in r.boxes:
        x1, y1, x2, y2 = box.xyxy[0]
        x1, y1, x2, y2 = int(x1), int(y1), int(x2), int(y2)
        confidence = math.ceil((box.conf[0] * 100)) / 100
        cls = int(box.cls[0])
        assert x1 <= x2 and 0 < confidence <= 1 and model.names[cls] in ("square", "disc")
""",
    "items of each box": SEEN
    + """
for box in results[0].boxes:
    class_id = results[0].names[box.cls[0].item()]
    cords = box.xyxy[0].tolist()
    cords = [round(x) for x in cords]
    conf = round(box.conf[0].item(), 2)
    assert class_id in ("square", "disc") and len(cords) == 4 and conf <= 1
""",
    "boxes as numpy": SEEN
    + """
for result in results:
    boxes = result.boxes.cpu().numpy()
    for box in boxes:
        r = box.xyxy[0].astype(int)
        assert r.shape == (4,)
    xyxys, confidences, class_ids = boxes.xyxy, boxes.conf, boxes.cls.astype(int)
    assert isinstance(xyxys, np.ndarray) and len(xyxys) == len(confidences) == len(class_ids)
""",
    "tensors to numpy": SEEN
    + """
xyxy = results[0].boxes.xyxy.cpu().numpy()
conf = results[0].boxes.conf.cpu().numpy()
cls = results[0].boxes.cls.cpu().numpy().astype(int)
assert xyxy.shape == (len(conf), 4) and cls.dtype == int
""",
    "four forms": SEEN
    + """
boxes = results[0].boxes
for form in (boxes.xyxy, boxes.xywh, boxes.xyxyn, boxes.xywhn):
    assert isinstance(form, torch.Tensor) and form.shape == (len(boxes), 4)
h, w = boxes.orig_shape
assert torch.allclose(boxes.xyxyn * torch.tensor([w, h, w, h]), boxes.xyxy, atol=1e-4)
""",
    "names of all boxes": SEEN
    + """
result = results[0]
names = [result.names[cls.item()] for cls in result.boxes.cls.int()]
assert len(names) == len(result)
""",
    "data": SEEN
    + """
for x1, y1, x2, y2, score, class_id in results[0].boxes.data.tolist():
    assert 0 <= score <= 1 and int(class_id) in model.names
""",
    "tracks of a film": LOADED
    + 'results = model.track("video.mp4", conf=0.01, iou=0.5, tracker="bytetrack.yaml")\n'
    + "assert all(result.boxes.id is not None for result in results)",
    "tracks frame by frame": LOADED
    + 'capture = cv2.VideoCapture("video.mp4")\n'
    + "while capture.isOpened():\n"
    + "    success, frame = capture.read()\n"
    + "    if not success:\n        break\n"
    + "    results = model.track(frame, persist=True)\n"
    + "    annotated = results[0].plot()\n"
    + "    assert annotated.shape == frame.shape",
    "no tracks": SEEN + "assert results[0].boxes.id is None and not results[0].boxes.is_track",
    "a mask of boxes": SEEN
    + """
boxes = results[0].boxes
sure = boxes[boxes.conf > 0.5]
assert (sure.conf > 0.5).all() and len(sure) == int((boxes.conf > 0.5).sum())
squares = boxes[boxes.cls == 0]
assert (squares.cls == 0).all()
""",
    "a part of a result": SEEN
    + """
result = results[0]
first = result[0]
assert len(first) == 1 and len(result[:2]) == 2 and len(result[result.boxes.conf > 2]) == 0
assert len(result.boxes[0].xyxy) == 1
""",
    "counts": SEEN
    + """
print(f"Detected {len(results[0].boxes)} objects")
counts = Counter(model.names[int(c)] for c in results[0].boxes.cls)
assert sum(counts.values()) == len(results[0])
""",
    "devices of a result": SEEN
    + """
result = results[0].cpu()
result = result.to("cpu")
result = result.numpy()
assert isinstance(result.boxes.xyxy, np.ndarray)
""",
    "what a result knows": SEEN
    + """
result = results[0]
assert result.orig_img.shape[:2] == result.orig_shape
assert set(result.speed) == {"preprocess", "inference", "postprocess"}
assert result.path.split("/")[-1] == Path(result.path).name == "bus.jpg"
assert isinstance(result.names, dict) and result.names == {0: "square", 1: "disc"}
""",
    "plot": SEEN
    + """
for i, r in enumerate(results):
    im_bgr = r.plot()
    im_rgb = Image.fromarray(im_bgr[..., ::-1])
    im_rgb.save("plotted.png")
""",
    "plot with options": SEEN
    + """
drawn = results[0].plot(conf=False, labels=False, line_width=2, font_size=12, masks=False)
assert drawn.shape == results[0].orig_img.shape
assert isinstance(results[0].plot(pil=True), Image.Image)
on_black = results[0].plot(img=np.zeros_like(results[0].orig_img), color_mode="instance")
results[0].plot(save=True, filename="plotted.jpg")
assert Path("plotted.jpg").is_file()
""",
    "save_txt": SEEN
    + 'results[0].save_txt("out.txt", save_conf=True)\nassert Path("out.txt").is_file()',
    "save_crop": SEEN
    + """
results[0].save_crop(save_dir="cut", file_name="detection")
assert list(Path("cut").glob("*/detection*.jpg"))
""",
    "cut by hand": SEEN
    + """
for box in results[0].boxes:
    x1, y1, x2, y2 = map(int, box.xyxy[0])
    crop = results[0].orig_img[y1:y2, x1:x2]
    assert crop.ndim == 3
""",
    "to_df": SEEN
    + """
df = results[0].to_df()
assert list(df["name"]) == [row["name"] for row in results[0].summary()]
assert results[0].to_csv().count("\\n") == len(results[0]) + 1
""",
    "to_json": SEEN
    + """
import json
found = json.loads(results[0].to_json(normalize=True))
assert found[0].keys() == {"name", "class", "confidence", "box"} and found[0]["box"]["x2"] <= 1
assert len(json.loads(results[0].tojson())) == len(results[0])
assert len(json.loads(results[0].to_json())["detections"]) == len(results[0])
""",
    "summary": SEEN
    + """
for s in results[0].summary():
    assert s["name"] == model.names[s["class"]] and s["box"]["x1"] <= s["box"]["x2"]
""",
    "verbose": SEEN + 'assert "square" in results[0].verbose() or "disc" in results[0].verbose()',
    # Training -----------------------------------------------------------------------------------
    "train": f"""
model = YOLO("yolov8n.yaml")
results = model.train(data="coco8.yaml", epochs=1, {SHORT})
assert Path(results.save_dir).is_dir() and Path(model.trainer.best).is_file()
assert results.box.map is not None and "metrics/mAP50-95" in results.results_dict
metrics = model.val()  # no arguments needed, dataset and settings remembered
results = model("bus.jpg")
""",
    "train a loaded model": LOADED
    + f'results = model.train(data="coco8.yaml", epochs=1, {SHORT}, name="loaded", seed=1)',
    "train with a callback": f"""
def on_train_epoch_end(trainer):
    seen.append((trainer.epoch, trainer.loss.item()))

seen = []
model = YOLO("yolov8n.pt")
model.add_callback("on_train_epoch_end", on_train_epoch_end)
model.train(data="coco8.yaml", epochs=1, {SHORT}, name="called")
assert [epoch for epoch, loss in seen] == [0]
""",
    "train by a class of one's own": f"""
from engine.detect import DetectionTrainer

class CustomTrainer(DetectionTrainer):
    pass

model = YOLO("yolov8n.pt")
model.train(data="coco8.yaml", epochs=1, {SHORT}, name="own", trainer=CustomTrainer)
assert isinstance(model.trainer, CustomTrainer)
""",
    # Validation ---------------------------------------------------------------------------------
    "val": LOADED
    + """
metrics = model.val(data="coco8.yaml", batch=4, conf=0.25, iou=0.6, device="cpu", plots=False)
assert metrics.box.map <= metrics.box.map50 and metrics.box.map75 is not None
assert len(metrics.box.maps) == len(model.names)
""",
    "val by class": LOADED
    + """
metrics = model.val(data="coco8.yaml", split="val")
assert metrics.box.mp is not None and metrics.box.mr is not None
for i, c in enumerate(metrics.ap_class_index):
    precision, recall, ap50, ap = metrics.class_result(i)
    assert model.names[c] in ("square", "disc") and ap == metrics.box.maps[c]
assert metrics.mean_results()[3] == metrics.box.map == metrics.results_dict["metrics/mAP50-95"]
assert metrics.fitness == metrics.results_dict["fitness"] and metrics.speed["inference"] > 0
assert metrics.confusion_matrix.matrix.shape == (3, 3)
assert metrics.names[0] == "square" and len(metrics.to_df()) == 2
""",
    # The rest -----------------------------------------------------------------------------------
    "export and load": LOADED
    + """
path = model.export(format="onnx", imgsz=64, dynamic=True, check_images=1)
onnx_model = YOLO(path)
results = onnx_model("bus.jpg")
assert len(results[0]) == len(model("bus.jpg")[0]) and onnx_model.names == model.names
""",
    "callbacks of a prediction": LOADED
    + """
def on_predict_start(predictor):
    seen.append("start")

seen = []
model.add_callback("on_predict_start", on_predict_start)
model("bus.jpg")
model.clear_callback("on_predict_start")
model("bus.jpg")
model.reset_callbacks()
assert seen == ["start"]
""",
    "callback that changes results": LOADED
    + """
def on_predict_batch_end(predictor):
    predictor.results = [(result, result.orig_img) for result in predictor.results]

model.add_callback("on_predict_batch_end", on_predict_batch_end)
for result, frame in model.predict("bus.jpg", stream=True):
    assert frame.shape[:2] == result.orig_shape
""",
    "the predictor": SEEN + "assert model.predictor.config.conf == 0.25",
    "benchmark": LOADED
    + """
table = model.benchmark(data="coco8.yaml", imgsz=64, check_images=1)
assert list(table["format"])[:2] == ["pytorch", "onnx"] and (table["status"] == "ok").all()
""",
}

REFUSED = {
    "segmentation": ('YOLO("yolov8n-seg.pt")', r"it has no masks.*YOLO\('yolov8n'\)"),
    "classification": ('YOLO("yolov8n-cls.pt")', r"no image classification.*YOLO\('yolov8n'\)"),
    "poses": ('YOLO("yolov8s-pose.yaml")', r"it has no keypoints.*YOLO\('yolov8s'\)"),
    "turned boxes": ('YOLO("yolo11n-obb.pt")', r"no rotated boxes.*YOLO\('yolov8n'\)"),
    "another task": ('YOLO("yolov8n.pt", task="segment")', "it has no masks"),
    "weights that are fetched": (
        'YOLO("yolov8s.pt")',
        r"yolov8s.pt: no such checkpoint.*None are fetched by this name. Near to it: model=yolov8s "
        r"\(fresh weights\), model=hf:ustc-community/dfine-small-coco",
    ),
    "weights of another program": (
        'torch.save({"model": torch.nn.Linear(1, 1)}, "theirs.pt")\nYOLO("theirs.pt")',
        "made by another program.*Nothing in it was executed. Checkpoints are made by `detectflow",
    ),
    "another generation": ('YOLO("yolo11n.pt")', "no such checkpoint.*Near to it: model=yolov8n"),
    "no weights yet": ('YOLO("yolov8n.yaml")("bus.jpg")', r"no weights yet; call train\(\) first"),
    "no source": (LOADED + "model.predict()", "no source given: set source="),
    "the screen": (LOADED + 'model.predict("screen")', "screen is no source here.*ImageGrab"),
    "no such file": (LOADED + 'model("nowhere.jpg")', "Source not found: nowhere.jpg"),
    "embeddings": (LOADED + 'model.embed("bus.jpg")', "has no 'embed': .*forward hook"),
    "feature maps": (LOADED + 'model.predict("bus.jpg", visualize=True)', "visualize"),
    "names before weights": ('YOLO("yolov8n.yaml").names', "has no weights yet"),
    "float images": (
        LOADED + "model(torch.rand(1, 3, 64, 64) * 255)",
        r"values from .* in \[0, 1\] \(divide 0..255 by 255\)",
    ),
    "TensorRT": (LOADED + 'model.export(format="engine")', "no export format 'engine'.*onnx"),
    "TorchScript": (LOADED + 'model.export(format="torchscript")', "use onnx"),
    "int8": (LOADED + 'model.export(format="onnx", int8=True)', "int8"),
    "no such data": (
        LOADED + 'model.train(data="coco128.yaml", epochs=1)',
        "coco128.yaml",
    ),
    "unknown event": (
        LOADED + 'model.add_callback("on_predict_postprocess_end", print)',
        "Did you mean 'on_predict_",
    ),
    "several GPUs by ray": (LOADED + "model.tune(use_ray=True)", "detectflow tune jobs=N"),
    "pandas of YOLOv5": (SEEN + "results[0].pandas()", r"`to_dataframe\(\)`"),
    "render of YOLOv5": (SEEN + "results[0].render()", r"`plot\(\)`"),
    "a font": (SEEN + 'results[0].plot(font="Arial.ttf")', "font='Arial.ttf' is not done here"),
    "masks of a metric": (
        LOADED + 'model.val(data="coco8.yaml", plots=False).seg.map',
        "has no 'seg': .*no masks",
    ),
    "a misspelt attribute": (SEEN + "results[0].box", "Did you mean 'boxes'"),
    "a misspelt box": (SEEN + "results[0].boxes.confs", "Did you mean 'conf'"),
    "a misspelt setting": (
        LOADED + 'model("bus.jpg", confidence=0.5)',
        "unknown key 'confidence'.*conf",
    ),
}

"""A user's script: a detector of transformers, trained by each process that torchrun starts.
`hf_script.py FOLDER DATA OUT`: once without a break, once cut in the second epoch and gone on with.
"""

import sys
from pathlib import Path

from engine.detect import DetectionTrainer

folder, data, out = (Path(word) for word in sys.argv[1:])
PLAN = {
    "model": f"hf:{folder}",
    "data": str(data),
    "project": str(out),
    "imgsz": 64,
    "batch": 4,
    "epochs": 3,
    "device": "cpu",
    "plots": False,
    "verbose": False,
    "workers": 0,
}


class Cut(Exception):
    pass


def cut(trainer):
    if trainer.epoch == 2:
        raise Cut


DetectionTrainer(overrides={**PLAN, "name": "whole"}).train()
first = DetectionTrainer(overrides={**PLAN, "name": "cut"})
first.add_callback("on_train_epoch_start", cut)
try:
    first.train()
except Exception as error:  # the rank that is told of the other's is given another
    print(type(error).__name__)
DetectionTrainer(overrides={**PLAN, "name": "cut", "resume": True}).train()

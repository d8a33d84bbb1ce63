"""What `detectflow help` prints. The settings of a mode are read from its schema, so they are never
another list. And `detectflow schema`, which prints those settings for programs.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from engine.errors import ConfigError
from engine.model_formats import table

OVERVIEW = """\
detectflow MODE key=value ...      retrain object detectors, and know what came out

  run       the whole pipeline: prepare, train, validate, export, register
  ui        open the MLflow and Prefect UIs on this machine
  train     train a detector
  val       the metrics of a trained detector on a dataset
  predict   find objects in images, folders, videos
  track     follow objects through a video: each has its number
  export    write a trained detector in another format, for example ONNX
  tune      search for the best settings of training
  stage     one stage of the pipeline, without asking what is up to date
  check     what is wrong with a dataset: a table, a page with images
  convert   a labelled dataset in another format
  models    networks to train, and published weights to start from
  import    weights that another tool wrote, or published ones, as a weight file
  diff      what changed between two versions of a dataset
  tasks     what is worth labelling or relabelling next, for CVAT or Label Studio
  trace     what a model or an image comes from, and what came of it
  report    what was found about the latest model, in one page for people
  compare   which of two models is better, and how sure that is
  promote   make a version the champion, whatever the gates said
  rollback  back to the champion before
  decide    ask the gates about a version again, on the test images of now
  approve   say yes to a version where the gates ask for it
  history   who was champion when, by which evidence, moved by whom
  deploy    register the pipeline with a Prefect server, for schedules and workers
  worker    run on this machine what the server starts
  serve     deploy and worker in one process, without a work pool
  prefect   Prefect's own command, with this project's server
  schema    the settings as JSON schema, for editors
  help      what a mode takes: detectflow help train

  detectflow run -S train.epochs=50
  detectflow train model=yolov8n data=data/digits.yaml epochs=3
  detectflow predict model=weights/best.pt source=images/

DETECTFLOW_DEBUG=1 shows where an error was raised."""

USAGE = {
    "run": """\
detectflow run [-S section.key=value ...] [--force] [--no-wait]

Brings the pipeline of this project up to date: what has not changed is skipped. Overrides are written into params.yaml.
Interrupted, it goes on where it was; `dvc repro` continues it too.

  -S KEY=VALUE   set a value of params.yaml first; may be repeated
  -S @FILE       set those of a YAML file, for example the best.yaml of `detectflow tune`
  --force        run every stage, also what is up to date
  --no-wait      fail at once when another run works in this project

  detectflow run
  detectflow run -S train.epochs=50 -S train.model=yolov8s
  detectflow run -S data.source=data/bccd.yaml -S data.path=../bccd""",
    "ui": """\
detectflow ui

Starts MLflow (port 5000, or MLFLOW_PORT) and Prefect (port 4200, or PREFECT_SERVER_API_PORT) on 127.0.0.1, with the data of
this project, and prints their addresses. A run that starts meanwhile reports to them. Ctrl-C ends both; one that ends by
itself is started again, up to five times in a row. Prefect's page asks for the text of PREFECT_API_AUTH_STRING, which is written to
.env at the first start; both answer to 127.0.0.1 and localhost only. Where MLFLOW_TRACKING_URI or PREFECT_API_URL names a server of your team, that
one is shown and none is started.""",
    "train": """\
detectflow train key=value ...

Trains a detector into runs/NAME/: weights/best.pt and last.pt, results.csv, plots.

  detectflow train model=yolov8n data=data/digits.yaml epochs=3
  detectflow train model=runs/train/weights/best.pt data=images/ imgsz=[320,640] batch=8
  detectflow train name=train resume=true
  detectflow train trainer=mine.training:CustomTrainer callbacks=mine.hooks:add_mine
  detectflow train settings=runs/tune/digits-yolov8n/best.yaml epochs=100
  detectflow train device=cuda nproc=2 model=yolov8s data=data/bccd.yaml
  torchrun --nnodes 2 --node-rank 0 --nproc-per-node 2 --master-addr HOST -m engine train data=data/bccd.yaml

Dotted paths (package.module:Name) are looked up in the working directory, then as Python does (PYTHONPATH, packages).""",
    "val": """\
detectflow val model=WEIGHTS data=DATASET key=value ...

The metrics of a trained detector: COCO average precision, precision and recall, per class and per image.

  model=weights/best.pt      a model file: {model suffixes}
  data=data/prepared         dataset description .yaml, prepared folder, or folder of labelled images
  project=runs name=val      where tables and plots go

  detectflow val model=runs/train/weights/best.pt data=data/bccd.yaml split=val""",
    "predict": """\
detectflow predict source=SOURCE key=value ...

Finds objects. Images with boxes go to runs/predict/ (a number is appended where it exists), of a video an mp4 and its frames.
Images that cannot be read are named, counted and left out; the exit code is then 1. Sub-folders are searched where the folder
has no images itself.

  detectflow predict model=weights/best.pt source=images/ conf=0.4
  detectflow predict model=export/best.onnx source=video.mp4 save_json=true
  detectflow predict source=aerial.tif tile=640""",
    "track": """\
detectflow track source=VIDEO key=value ...

As predict, and each object has a number that it keeps from frame to frame (ByteTrack), in the mp4 that goes to runs/track/ and in
detections.jsonl and detections.csv. Takes videos, streams and cameras; images of a folder are the frames of one video, in the
order of their names. Needs the extra `track` (package trackers), which `make install` brings.

  detectflow track model=weights/best.pt source=video.mp4 save_csv=true
  detectflow track source=rtsp://camera/1 track_buffer_s=3""",
    "export": """\
detectflow export model=WEIGHTS format=FORMAT key=value ...

Writes a trained detector in another format and compares its output with PyTorch's.

  model=weights/best.pt      weights: {weight suffixes}
  format=onnx                {formats}
  data=...                   dataset whose images are compared; without it: generated ones
  folder=...                 where the file goes; default: beside the weights; for
                             those of the pipeline runs/export

  detectflow export model=runs/train/weights/best.pt format=onnx dynamic=true""",
    "tune": """\
detectflow tune key=value ...

Searches for settings of training that give a better AP on split val: many short trainings, of which the hopeless ones are
ended early. Takes the settings below and those of `detectflow train`; what is not given is as in section train of params.yaml,
and so is the first trial. Interrupted or killed, the same command goes on. Nothing is written into params.yaml.

  space=tune.yaml    what is searched, a line each:
                       lr0: {low: 1e-4, high: 2e-2, log: true}
                       optimizer: {choices: [SGD, AdamW]}

Results are in runs/tune/STUDY/: best.yaml, trials.csv, plots, a run directory for each trial.

  detectflow tune data=data/digits.yaml epochs=10 trials=20
  detectflow tune trials=40 jobs=2
  detectflow tune space=tune.yaml runner=dask scheduler=tcp://head:8786 jobs=8
  detectflow run -S @runs/tune/digits-yolov8n/best.yaml""",
    "stage": """\
detectflow stage NAME

Runs one stage of the pipeline by itself: prepare, train, validate, export or register. It does not ask whether the result is
up to date, and records nothing with DVC; `detectflow run` and `dvc repro` do.""",
    "check": """\
detectflow check [data=DATASET] [model=WEIGHTS] key=value ...

Checks every image and every box, as stage prepare does first, and changes nothing. In a project the data section of
params.yaml counts: its dataset where none is given, its policies and thresholds for any other.

  data=data/bccd.yaml        dataset description .yaml, or a folder of labelled images
  model=weights/best.pt      also find labels that this model contradicts; device=auto
  out=runs/check             where report.html and report.json go
  classes=data/classes.yaml  the classes to compare with; written where it is not there
  workers=0                  processes that examine images; 0: one for each core, 1: no others

Exit code: 0 nothing, or only warnings; 1 findings whose policy is `error`; 2 a wrong request.

  detectflow check data=data/bccd.yaml path=../bccd
  detectflow check data=images/ policies.near_duplicate=error near_duplicate_bits=30""",
    "convert": """\
detectflow convert data=DATASET format=FORMAT out=FOLDER [policies.KIND=POLICY ...]

Writes a labelled dataset in another format into a new folder. Boxes stay where they are, images are copied byte for byte, the
source is only read. The formats are listed below; docs/data/formats.md says what is read of each.

  data=images/               folder of labelled images, dataset description .yaml, or prepared folder
  format=coco                one of the formats that can be written
  out=converted/             a folder that does not exist yet
  path=...                   local folder to use instead of the description's address
  corrections=FOLDER         labelled images whose boxes count where they are the same images; its others are added
  policies.KIND=POLICY       what to do about a finding, for example policies.missing_size=fix

  detectflow convert data=data/bccd.yaml path=../bccd format=yolo out=bccd-yolo
  detectflow convert data=data/prepared corrections=returned/ format=coco out=data/raw/mine-2""",
    "models": """\
detectflow models

The networks of this project and of the libraries it takes detectors from: parameters, COCO AP and licence of their published
weights, the smallest input side, the memory of a training batch of 16 at 640 px, and which are on this machine already.

  detectflow models
  detectflow train model=hf:ustc-community/dfine-nano-coco data=data/digits.yaml""",
    "import": """\
detectflow import FILE family=yolov8 licence=NAME [names=[...]] [imgsz=SIDE] [out=FILE.pt]
detectflow import hf:ORG/NAME[@REVISION] [accept_licence=NAME] [imgsz=SIDE] [out=FILE.pt]

Writes a detector of the YOLOv8 family that another tool trained as a weight file of this project, to start from, to measure, to
export. The file is read as tensors and plain data: nothing of it is run, and its package need not be installed. Layers are found
by their published names, and every shape is checked. File and licence are yours: the licence that you name is recorded with the
weights, and with every model that is trained from them.

  licence=AGPL-3.0   the licence under which you have the weights
  names=[cat,dog]    the classes in the network's order, where the file does not name them
  imgsz=640          the input side it was trained for, where the file does not say
  out=models/NAME.pt a file that does not exist yet

The second form writes published weights (hf:, torchvision:NAME@WEIGHTS) with all their classes, untrained here: to predict with,
to export, to measure on your images before you train.

  detectflow import hf:ustc-community/dfine-nano-coco
  detectflow predict model=models/dfine-nano-coco.pt source=images/
  detectflow import ~/old/best.pt family=yolov8 licence=AGPL-3.0
  detectflow train model=models/best.pt data=data/digits.yaml""",
    "diff": """\
detectflow diff BEFORE [AFTER] [out=FOLDER] [notify=true]

Images added, removed, moved between splits; boxes added, removed, moved, relabelled; class counts; shifts of box size and place.
A version is a prepared folder, one of its manifests, a dataset description, a folder of labelled images, or a revision of this
project (a tag, HEAD~1, an experiment): then its data/prepared is taken from DVC's cache or remote, and nothing is checked out.

  AFTER            data/prepared where it is left out
  out=runs/diff    where diff.html and diff.json go
  notify=true      where they differ, send the Prefect server the event detectflow.dataset.changed, which can start a training

  detectflow diff HEAD~1
  detectflow diff v1.0 v1.1 out=reports/diff
  detectflow diff old_export/ new_export/""",
    "tasks": """\
detectflow tasks [model=MODEL] [unlabelled=FOLDER] [format=cvat] out=FOLDER key=value ...

What is worth an annotator's time, as files that CVAT or Label Studio imports, with the boxes of the model to begin with:
OUT/relabel/ are labelled images whose labels the model contradicts or in which it gets most wrong, OUT/label/ those images of
a folder without labels about which it is least sure, no two of them alike. Nothing is written into either. tasks.csv says why
each image is there. What comes back is read as any dataset: `detectflow diff` shows what has changed, and `detectflow convert
corrections=` puts it into the dataset (docs/howto/failures.md).

  model=weights/best.pt  a model file or a registered model, as in `detectflow help compare`
  data=data/prepared     the labelled dataset; split=all, or train, val, test
  unlabelled=FOLDER      images without labels; those that are in the dataset already are left out
  format=cvat            cvat: XML 1.1 for images; label-studio: JSON with predictions
  number=50              at most so many images in each of the two folders
  copy=true              copy the images into OUT/.../images/; else images.txt lists where they are
  out=FOLDER             a folder that does not exist yet

  detectflow tasks unlabelled=~/new-images out=runs/tasks
  detectflow tasks model=detector@champion split=test format=label-studio copy=true out=runs/tasks""",
    "trace": """\
detectflow trace X [format=json]

What X was made from (data, code, settings, run, weights it started from) and what came of it (exports, registered versions,
trainings that started from it). Asked are the files' own metadata, the reports, dvc.lock in every commit with DVC's cache, and
MLflow; each fact says from where it is known, and who did not answer is named.

  X   a model file        weights/best.pt, export/best.onnx; {model suffixes}
      a registered model  detector@champion, detector/3
      an MLflow run       its id
      an image            by its content, whatever its name: which models learned from it, which were only measured with it
      a dataset           its digest, or data/prepared
      a digest            of data, weights, export or image: all of it, or the first 8 hex digits or more

  detectflow trace weights/best.pt
  detectflow trace detector@champion format=json
  detectflow trace ~/images/00017.jpg""",
    "report": """\
detectflow report [out=FOLDER] [mlflow=false]

Makes the report of the latest model anew: one page (index.html) with verdict and reasons, metrics with intervals, the champion
beside it, curves, errors, thresholds, data, the exported file and where it all comes from; and a model card (model_card.md).
Nothing is measured: what is not recorded is said to be so. Stage register makes the same in reports/, and in MLflow.

  out=runs/report    where the two files go
  mlflow=true        ask MLflow too: who was champion when, which run, code and settings it was

  detectflow report
  detectflow report out=/tmp/for-the-meeting""",
    "compare": """\
detectflow compare [A B] [data=DATASET] [split=test] key=value ...

Measures both models now, on the same images with the same settings, and compares them by a paired bootstrap over groups of
images: difference of B and A with its 95 % interval, for the mean and each class; then what the gates of params.yaml say of B
as the one to replace A. Nothing is moved. Results are kept: asking again costs nothing.

  A, B               by default champion and challenger of this project's model; else
                     a registered model      detector@champion, detector/3, models:/detector/3
                     a model file            weights/best.pt, export/best.onnx
                     a run                   runs/train, or the id of an MLflow run
                     predictions             boxes.json in COCO's format, also of other tools
  data=data/prepared a dataset
  split=test         and conf, iou, max_det, batch, device, as in `detectflow help val`
  out=runs/compare   where comparison.json goes, and what B gains and loses: errors.json and images/, images side by side

  detectflow compare detector@champion detector@challenger
  detectflow compare detector@champion weights/best.pt split=val
  detectflow compare weights/best.pt other-tool.json data=data/bccd.yaml""",
    "promote": """\
detectflow promote NAME/VERSION --why TEXT

Makes the version champion, whatever the gates said, and enters in the history who did it and why.

  detectflow promote detector/3 --why "fewer misses on night images, seen by eye\"""",
    "rollback": """\
detectflow rollback [NAME] --why TEXT [--steps N]

Makes the champion before champion again; NAME is register.model where it is left out. The version that leaves does not come
back by a run, until there are new test images, settings or gates, or a person promotes it.

  detectflow rollback --why "misses trucks since Monday"
  detectflow rollback detector --steps 2 --why "both of last week" """,
    "decide": """\
detectflow decide [NAME/VERSION]

Measures the version (by default the challenger) and the champion on data/prepared as it is now, asks the gates of
register.gate, and moves the aliases as a run would; nothing is trained. For a version that was held, once there are more
test images or a yes. On the same evidence as before nothing is decided anew.

  dvc repro prepare && detectflow decide        (dvc repro -f prepare: images outside the project)
  detectflow decide detector/3""",
    "approve": """\
detectflow approve NAME/VERSION [--why TEXT]

Says yes to a version: the gate `approval`, and classes that go away, ask for it. `detectflow decide` then asks the gates again.

  detectflow approve detector/3 --why "looked at all misses\"""",
    "history": """\
detectflow history [NAME] [format=json]

Who was champion from when to when, decided by which evidence, moved by whom; NAME is register.model where it is left out.
Aliases that were moved by hand in MLflow are noticed and entered as such.

  detectflow history
  detectflow history detector format=json""",
    "deploy": """\
detectflow deploy [NAME ...]

Registers the deployments of prefect.yaml, by default all, with the Prefect server that `detectflow ui` runs, or with the one
that PREFECT_API_URL names. Makes the work pool, and automations, of which those that act are switched off at first. What
works in a fresh clone needs to know of what: the git remote `origin`, or DETECTFLOW_REPOSITORY.

  detectflow deploy
  detectflow deploy train nightly
  detectflow prefect deployment run pipeline/train -p dataset=data/bccd.yaml -p overrides='{"train.epochs": 50}'""",
    "worker": """\
detectflow worker [--pool NAME] [--limit N] [...]

Starts what the server has for this machine, until Ctrl-C: `prefect worker start` with this project's environment; options go
there. A run that is cancelled keeps its last complete epoch, and the next one goes on from it.

  detectflow worker
  detectflow worker --limit 1""",
    "serve": """\
detectflow serve [NAME ...] [limit=N]

Registers the deployments of prefect.yaml, by default all, and runs what is due as child processes, until Ctrl-C: Prefect's
`serve`, for one machine that needs no work pool. What works in a fresh clone needs a worker and is left out. A server has one
deployment of a name: `detectflow deploy` takes them back for workers. When it ends, its schedules are paused.

  limit=N   so many runs at a time

  detectflow serve
  detectflow serve train nightly limit=1""",
    "prefect": """\
detectflow prefect ...

Prefect's own command with this project's server and settings: a bare `prefect` knows neither, and starts a server of its own.

  detectflow prefect deployment run pipeline/train -p overrides='{"train.epochs": 50}'
  detectflow prefect flow-run ls
  detectflow prefect deployment ls""",
    "schema": """\
detectflow schema [SECTION]

Prints the settings as JSON schema: names, types, ranges, defaults and meaning. SECTION is one of data, train, validate, export,
register, tracking, flows.prepare, predict, track, tune, or params for the whole of params.yaml, which is the default.

  detectflow schema > .cache/params.schema.json
  detectflow schema train

An editor with the YAML language server then completes and checks params.yaml, whose first line is to be

  # yaml-language-server: $schema=.cache/params.schema.json""",
}


def help_of(mode: str) -> str:
    """Usage, examples and settings of one mode."""
    parts = [usage_of(mode)]
    if mode == "run":
        parts.append(_params())
    elif mode in {"train", "val", "predict", "track", "export", "tune"}:
        parts.append(f"Settings, with their defaults\n\n{_settings(mode)}")
    elif mode == "convert":
        parts.append(_annotation_formats())
    return "\n\n".join(parts)


def schema(argv: Sequence[str]) -> int:
    """`detectflow schema [SECTION]`: the settings as JSON schema, for editors."""
    from engine.config.schema import WHOLE, json_schema

    if len(argv) > 1:
        raise ConfigError(f"schema takes one section, got {len(argv)} arguments: {' '.join(argv)}")
    print(json.dumps(json_schema(argv[0] if argv else WHOLE), indent=2, ensure_ascii=False))
    return 0


def usage_of(mode: str) -> str:
    """Usage and examples of one mode; formats of model files are those of their table."""
    known = {
        "{model suffixes}": ", ".join(table.model_suffixes()),
        "{weight suffixes}": ", ".join(table.weight_suffixes()),
        "{formats}": f"\n{'':29}".join(
            f"{each.name}: {each.about}" for each in table.FORMATS.values()
        ),
    }
    text = USAGE[mode]
    for mark, value in known.items():
        text = text.replace(mark, value)
    return text


def _settings(mode: str) -> str:
    from engine.config.schema import SECTIONS, describe_groups

    return describe_groups(SECTIONS["validate" if mode == "val" else mode])


def _annotation_formats() -> str:
    from engine.datasets.formats import KINDS

    lines = (
        f"  {kind.name:<12} {kind.title}, {'read and written' if kind.write else 'read'}"
        for kind in KINDS.values()
    )
    return "\n".join(["Formats", "", *lines])


def _params() -> str:
    from engine.config.schema import SECTIONS, describe_groups

    parts = ["Keys of params.yaml, with their defaults", "train:\n  as in `detectflow help train`"]
    parts += [
        describe_groups(SECTIONS[section]).replace("general:", f"{section}:", 1)
        for section in SECTIONS
        if section not in {"train", "predict", "track", "tune"}
    ]
    return "\n\n".join(parts)

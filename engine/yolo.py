"""The short way: `Detector("yolov8n").train(data=..., epochs=3)`, also under the name `YOLO`. A
thin layer over the executors, which do the work; methods and attributes have the names that people
know from Ultralytics' `YOLO`.

Whoever outgrows it takes `DetectionTrainer`, `DetectionValidator`, `DetectionPredictor` or
`engine.export.export`.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.core.results import TrainResult
from engine.errors import ConfigError
from engine.files import file_state

if TYPE_CHECKING:  # torch takes seconds to import; so do those that need it
    import torch

    from engine.detect.class_names import ClassNames
    from engine.detect.measured import ValidationMetrics
    from engine.detect.model_io import LoadedModel
    from engine.detect.runtime import Runtime

FUSED_CHANGED = (
    "the fused network was changed in memory, and weights are written as they were before fuse(): "
    "make the change in a network that is not fused, YOLO(file).model; fuse() may follow"
)
FRESH_CLASSES = 80  # of a network without weights that is only looked at; COCO's
# Of `torch.nn.Module`, asked of the network itself.
OF_NETWORK = (
    *("parameters", "named_parameters", "buffers", "state_dict", "modules", "named_modules"),
    *("children", "named_children", "eval", "requires_grad_"),
)


class Detector:
    """A detector by name (`yolov8n`, `torchvision:NAME`, `package.module:Class` of a family of your
    own), model .yaml, weight file, or registered model (`detector@champion`, `detector/3`); after
    `train` it stands for the best weights. The network is loaded once, and again when its file
    changes.

    task, verbose: taken as they are elsewhere; the only task is "detect".

    Raises:
        ConfigError: an unknown name, another task. CheckpointError: weights that cannot be read.
    """

    task = "detect"

    def __init__(
        self, model: str | Path = "yolov8n", task: str | None = None, verbose: bool = False
    ):
        from engine.config import DetectionTrainConfig
        from engine.detect.model_io import is_weight_file, read_weights
        from engine.model_formats.table import check_suffix, is_model_file
        from engine.models.registry import family_of
        from engine.registry.fetch import file_of

        _check_task(str(model), task)
        self.source = file_of(str(model), weights=True)  # a name, or a file
        self.weights: Path | None = None
        if is_weight_file(self.source):
            read_weights(self.source)
            self.weights = Path(self.source)
        elif is_model_file(Path(self.source)):
            check_suffix(Path(self.source))
            self.weights = Path(self.source)
        else:
            family_of(self.source).spec(self.source, DetectionTrainConfig(model=self.source))
        self.data: str | None = None
        self._tracking: Any = None  # the predictor of the last `track`
        self.trainer: Any = None  # of the last `train`
        self.predictor: Any = None  # of the last `predict`
        self.metrics: ValidationMetrics | None = None  # of the last `val`
        self._callbacks: list[tuple[str, Callable[[Any], None]]] = []
        self._published: Path | None = None  # the weights, where the name stands for such
        self._device: str | None = None  # what `to` said
        self._fused = False
        self._kept = Kept()

    # What it does ---------------------------------------------------------------------------------

    def train(self, **settings: Any) -> TrainResult:
        """Train with `DetectionTrainConfig` settings by name; see `detectflow train --help`.
        trainer: a trainer class of your own, or its path as text.

        It begins with the weights that this object has: a second call with the best of the first.
        `Detector("runs/train/weights/last.pt").train(resume=True)` goes on with that run."""
        from engine.detect.choose import trainer_class_of
        from engine.detect.measured import DetectionResult
        from engine.detect.methods import made

        start = self.source if settings.get("resume") else self._start()
        if str(settings.get("model", start)) not in (start, self.source):
            raise ConfigError(
                f"train: the model is '{self.source}'; for another one make "
                f"{type(self).__name__}({str(settings['model'])!r})"
            )
        if self.weights is not None and start == str(self.weights):
            self._trained("train")
        trainer_class = settings.get("trainer")
        if isinstance(trainer_class, type):
            del settings["trainer"]
        else:
            trainer_class = trainer_class_of(trainer_class)
        given = {"model": start, **self._own_device(), **settings}
        trainer = made(trainer_class, overrides=given)
        self._attach(trainer)
        result = trainer.train()
        self.trainer, self.weights, self.data = trainer, result.best, trainer.args.data
        self._fused, self._kept = False, Kept()
        if type(result) is not TrainResult:  # of a trainer that says more, or something else
            return result
        validator = getattr(trainer, "validator", None)
        fields = {each.name: getattr(result, each.name) for each in dataclasses.fields(result)}
        return DetectionResult(
            **fields,
            scores=getattr(validator, "scores", None),
            speed=dict(getattr(validator, "speed_ms", {})),
        )

    def val(self, data: str | Path | None = None, **settings: Any) -> ValidationMetrics:
        """Metrics on the test images of `data` (default: of the training), or of `split=`."""
        from engine.detect.measured import ValidationMetrics
        from engine.detect.validator import validator_class_of

        weights = self._trained("val")
        source = data if data is not None else self.data or _data_of_run(weights)
        if source is None:
            raise ConfigError(
                "val: no data; give data=, a dataset description or a prepared folder"
            )
        validator = validator_class_of(weights)(overrides={**self._own_device(), **settings})
        self._attach(validator)
        self.metrics = ValidationMetrics(
            validator(model=weights, data=source),
            getattr(validator, "scores", None),
            validator.speed_ms,
            getattr(validator, "save_dir", None),
        )
        return self.metrics

    def predict(self, source: Any = None, stream: bool = False, **settings: Any) -> Any:
        """`Results` of every image of `source`, a list, or with `stream` one by one; nothing is
        written unless `save=True`, `save_txt=True` or the like. See `detectflow predict --help`.
        """
        from engine.detect import DetectionPredictor

        weights = self._trained("predict", changed=True)
        own = {"model": str(weights), "save": False, "verbose": False, **self._own_device()}
        predictor = DetectionPredictor({**own, **settings})
        if predictor.config.model == str(weights):
            predictor.model = self._runtime(predictor.config.device)
        self._attach(predictor)
        self.predictor = predictor
        return predictor(source, stream=stream)

    def __call__(self, source: Any = None, stream: bool = False, **settings: Any) -> Any:
        """`predict`."""
        return self.predict(source, stream, **settings)

    def track(
        self, source: Any = None, stream: bool = False, persist: bool = False, **settings: Any
    ) -> Any:
        """`Results` with `ids`, the numbers of objects that are followed through a video; needs the
        extra `track`. persist: the source goes on where the last one ended, frame by frame.
        """
        from engine.detect.predictor import TrackingPredictor

        weights = self._trained("track", changed=True)
        quiet = {"model": str(weights), "save": False, "verbose": False, **self._own_device()}
        predictor = TrackingPredictor({**quiet, **settings})
        if persist and self._tracking is not None and self._tracking.config == predictor.config:
            predictor = self._tracking
        else:
            self._attach(predictor)
        if predictor.config.model == str(weights):
            predictor.model = self._runtime(predictor.config.device)
        self.predictor = self._tracking = predictor
        return self.predictor.track(source, stream, persist)

    def export(
        self,
        format: str = "onnx",
        folder: str | Path | None = None,
        data: str | Path | None = None,
        **settings: Any,
    ) -> Path:
        """Write the weights in another format, checked against PyTorch; the path of the file.

        It lies in `folder`, by default beside the weights; for those that the pipeline of a project
        made, in its `runs/export/`.
        """
        from engine.config import ExportConfig
        from engine.export import Exporter
        from engine.stages.places import export_folder

        weights = self._trained("export")
        exporter = Exporter(ExportConfig.build(settings, "export"))
        self._attach(exporter)
        return exporter(weights, format, export_folder(weights, folder), data).path

    def tune(
        self,
        data: str | Path | None = None,
        iterations: int | None = None,
        space: str | Path | Mapping[str, Any] | None = None,
        use_ray: bool = False,
        **settings: Any,
    ) -> dict[str, Any]:
        """Search for better settings of training in this process, as `detectflow tune` does with
        more around it: `{"best": {"values": ...}, "table": ..., "folder": ...}`.

        iterations: trials, `trials` of the search. space: what is searched: a .yaml file, or
        `{"lr0": (1e-5, 1e-1)}`; None: the default space. settings: of the search and of the
        trainings. `save`, `val` and `plots` mean nothing here: trials are validated always, and the
        best keep their weights.

        Raises:
            ConfigError: outside a project (there is no params.yaml), a wrong setting.
        """
        if use_ray:
            raise ConfigError(
                "tune: use_ray: several trials at a time are `detectflow tune jobs=N`, and "
                "runner=dask on a cluster"
            )
        from engine.hpo.search import search, space_file
        from engine.project.environment import prepare_environment

        root = prepare_environment()
        given = {key: each for key, each in settings.items() if key not in ("save", "val", "plots")}
        given = {"model": self._start(), **self._own_device(), **given}
        if iterations is not None:
            given["trials"] = iterations
        if data is not None or self.data is not None:
            given["data"] = str(data if data is not None else self.data)
        if space is not None:
            given["space"] = str(
                space_file(space, root) if isinstance(space, Mapping) else Path(space).absolute()
            )
        return search(given, root)

    def benchmark(
        self,
        data: str | Path | None = None,
        format: str = "",
        device: Any = None,
        verbose: bool = False,
        **settings: Any,
    ) -> Any:
        """The formats of export beside each other: size, mAP50-95 on `data`, time of an image; a
        pandas DataFrame, or a list of rows where pandas is not installed.

        data: default: of the training; without one nothing is validated. format: only this one.
        device: as of `to`. settings: of export, imgsz for example. verbose: True: print the table.
        """
        from engine.config import ExportConfig
        from engine.export.benchmark import benchmark

        weights = self._trained("benchmark")
        source = data if data is not None else self.data or _data_of_run(weights)
        config = ExportConfig.build(settings, "benchmark")
        chosen = (format,) if format and format != "-" else ()
        place = self._device or "cpu" if device in (None, "") else _device_named(device)
        rows = benchmark(weights, source, chosen, place, config)
        try:
            import pandas
        except ImportError:
            return rows
        table = pandas.DataFrame(rows)
        if verbose:
            print(table.to_string(index=False))
        return table

    def add_callback(self, event: str, func: Callable[[Any], None]) -> None:
        """Call `func` with the trainer, validator, predictor or exporter at `event`, of every run
        from now on. docs/engine/events.md lists them.

        Raises:
            ConfigError: unknown event (the nearest is named), or something that cannot be called.
        """
        from engine.core.events import EXPORT_EVENTS, PREDICT_EVENTS, TRAIN_EVENTS, Callbacks

        Callbacks((*TRAIN_EVENTS, *PREDICT_EVENTS, *EXPORT_EVENTS)).add(event, func)
        self._callbacks.append((event, func))

    def clear_callback(self, event: str) -> None:
        """Forget the callbacks that `add_callback` added for `event`."""
        self._callbacks = [each for each in self._callbacks if each[0] != event]

    def reset_callbacks(self) -> None:
        """Forget all callbacks that `add_callback` added."""
        self._callbacks = []

    # What it is -----------------------------------------------------------------------------------

    @property
    def model(self) -> Any:
        """The network, a `torch.nn.Module` in eval mode: the one that `predict` uses, so that what
        is changed in it counts there; `save` writes it. Of an exported file its path as text. Of a
        name without weights a new network with fresh weights for 80 classes; `train` makes its own.
        """
        self._take_published()
        if self.weights is None:
            return self._fresh()
        if not self._is_weights():
            return str(self.weights)
        network = self._loaded().module
        self._kept.is_taken |= not self._fused
        return network

    @property
    def names(self) -> ClassNames:
        """Class names by number."""
        from engine.detect.class_names import ClassNames

        weights = self._trained("names", changed=True)
        if not self._is_weights():
            return ClassNames(self._runtime(self._device or "auto").names)
        return ClassNames(self._kept.loaded(weights, fused=False).names)

    @property
    def device(self) -> torch.device:
        """Where it predicts: what `to` said, else the first GPU or the CPU."""
        from engine.detect.runtime import choose_device

        return choose_device(self._device or "auto")

    @property
    def model_name(self) -> str:
        """The name or file that it was made of."""
        return self.source

    @property
    def ckpt_path(self) -> str | None:
        """The weight file; None: there are no weights yet."""
        return None if self.weights is None else str(self.weights)

    def to(self, device: Any) -> Detector:
        """Predict, validate and train there from now on: "cpu", "cuda", "cuda:1", a number or a
        `torch.device`. Returns itself. ConfigError: there is no such device.
        """
        self._device = _device_named(device)
        return self

    def cpu(self) -> Detector:
        """`to("cpu")`."""
        return self.to("cpu")

    def cuda(self, device: int | None = None) -> Detector:
        """`to("cuda")`."""
        return self.to("cuda" if device is None else device)

    def fuse(self) -> Detector:
        """Predict with batch norms folded into the convolutions before them: the same function, up
        to rounding, with fewer operations. Returns itself. The weights stay as they are, and so
        does a network that was taken from `model` before: what is changed in it counts still.
        """
        if self._is_weights():
            self._trained("fuse", changed=True)
            self._fused = True
        return self

    def info(self, detailed: bool = False, verbose: bool = True) -> tuple[int, int, int, float]:
        """(layers, parameters, gradients, GFLOPs) of the network, printed unless `verbose` is
        False; `detailed` prints every parameter.
        """
        from engine.detect.network_info import network_info, parameter_table

        network = self.model
        if isinstance(network, str):
            raise ConfigError(
                f"info: {network} is an exported file, whose layers are not seen; ask the weights "
                "that it was made of"
            )
        size = self._loaded().imgsz if self.weights is not None else (640, 640)
        found = network_info(network, size)
        if verbose:
            if detailed:
                print(parameter_table(network))
            print(f"{Path(self.source).stem}{' (fused)' if self._fused else ''}: {found}")
        return found.layers, found.parameters, found.gradients, found.gflops

    def load(self, weights: str | Path) -> Detector:
        """Take the weights of a file, of the same network where this one was made by name:
        `YOLO("yolov8n.yaml").load("best.pt").train(...)` begins with them. Returns itself.

        Raises:
            ConfigError: the file holds another network. CheckpointError: it cannot be read.
        """
        from engine.config import DetectionTrainConfig
        from engine.detect.model_io import family_of_meta, read_weights
        from engine.models.registry import family_of

        meta, _ = read_weights(weights)
        if self.weights is None or self.weights == self._published:
            family = family_of(self.source)
            wanted = family.spec(self.source, DetectionTrainConfig(model=self.source))
            found = family_of_meta(meta, weights)
            if (found.name, dict(meta["architecture"])) != (family.name, dict(wanted)):
                raise ConfigError(
                    f"load: {weights} holds a {meta.get('model')}, and this is a {self.source}; "
                    f"{type(self).__name__}({str(weights)!r}) takes the network of the file"
                )
        self.source, self.weights = str(weights), Path(weights)
        self._fused, self._kept = False, Kept()
        return self

    def save(self, filename: str | Path = "saved_model.pt") -> Path:
        """Write the weights as a file of the same format, with what was changed in `model`; without
        a change its very bytes. Returns the path.

        Raises:
            ConfigError: no weights yet, or another format, which `export` writes.
        """
        from engine.core.checkpoint import Checkpoint, save_checkpoint
        from engine.detect.model_io import read_weights
        from engine.files import atomic_write

        weights, target = self._trained("save", changed=True), Path(filename)
        if target.suffix.lower() != weights.suffix.lower():
            raise ConfigError(
                f"save: {target}: the weights are a {weights.suffix} file, and a file of another "
                "format is written by export(format=...)"
            )
        if self._kept.is_fused_changed():
            raise ConfigError(f"save: {FUSED_CHANGED}")
        if self._is_changed():
            if target.suffix.lower() != ".pt":
                raise ConfigError(
                    f"save: the network was changed in memory, and only .pt files are written of "
                    f"it, not {target}"
                )
            meta, _ = read_weights(weights)
            network = self._kept.loaded(weights, fused=False).module
            state = {k: v.detach().cpu().clone() for k, v in network.state_dict().items()}
            save_checkpoint(Checkpoint(meta, state), target)
        elif target.absolute() != weights.absolute():
            with open(weights, "rb") as source, atomic_write(target) as copy:
                shutil.copyfileobj(source, copy)
        return target

    def __repr__(self) -> str:
        trained = "no weights yet" if self.weights is None else str(self.weights)
        return f"{type(self).__name__}({self.source!r}, {trained})"

    def __getattr__(self, name: str) -> Any:
        from engine.detect.familiar import MODEL_WAYS, not_here, public_names

        if name.startswith("_"):
            raise AttributeError(f"'{type(self).__name__}' object has no attribute '{name}'")
        if name in OF_NETWORK:
            return getattr(self.model, name)
        more = ("data", "metrics", "predictor", "source", "trainer", "weights")
        raise not_here(type(self).__name__, name, MODEL_WAYS, public_names(type(self), more))

    # Inside ---------------------------------------------------------------------------------------

    def _start(self) -> str:
        """What a training begins with: the weights, or the name of a network."""
        is_named = self.weights is None or self.weights == self._published
        return self.source if is_named else str(self.weights)

    def _take_published(self) -> None:
        """Of `hf:ORG/NAME` and the like the published weights, as they are."""
        from engine.detect.import_weights import published_file

        if self.weights is None:
            self.weights = self._published = published_file(self.source)

    def _own_device(self) -> dict[str, str]:
        return {} if self._device is None else {"device": self._device}

    def _is_weights(self) -> bool:
        from engine.detect.model_io import is_weight_file

        return self.weights is None or is_weight_file(str(self.weights))

    def _attach(self, executor: Any) -> None:
        """Give an executor the callbacks for its events."""
        for event, function in self._callbacks:
            if executor.callbacks.knows(event):
                executor.add_callback(event, function)

    def _fresh(self) -> torch.nn.Module:
        from engine.config import DetectionTrainConfig
        from engine.models.registry import family_of

        family = family_of(self.source)
        spec = family.spec(self.source, DetectionTrainConfig(model=self.source))
        return family.build(spec, FRESH_CLASSES).eval()

    def _loaded(self) -> LoadedModel:
        """The network of the weight file, read again only where the file is another."""
        return self._kept.loaded(self._trained("model", changed=True), self._fused)

    def _runtime(self, device: Any) -> Runtime:
        return self._kept.runtime(self.weights, self._fused, str(device))

    def _is_changed(self) -> bool:
        return self.weights is not None and self._is_weights() and self._kept.is_changed()

    def _trained(self, verb: str, changed: bool = False) -> Path:
        """The weights. ConfigError: there are none; or, unless `changed` is welcome, the network in
        memory is no longer theirs.
        """
        self._take_published()
        if self.weights is None:
            raise ConfigError(
                f"{verb}: '{self.source}' has no weights yet; call train() first, or "
                f"{type(self).__name__}('path/to/best.pt')"
            )
        if not changed and self._is_weights() and self._kept.is_fused_changed():
            raise ConfigError(f"{verb}: {FUSED_CHANGED}; this reads {self.weights}")
        if not changed and self._is_changed():
            raise ConfigError(
                f"{verb}: the network was changed in memory, and this reads {self.weights}; write "
                f"it first: save('changed.pt'), then {type(self).__name__}('changed.pt')"
            )
        return self.weights


class Kept:
    """What was read of a model file, until the file is another one: `engine.files.file_state`."""

    def __init__(self) -> None:
        self._file: tuple[Any, ...] = ()
        self._loaded: LoadedModel | None = None  # as trained
        self._fused: Fused | None = None
        # whether somebody has the network and may change it: else nothing is compared, for that
        # takes longer than fusing saves
        self.is_taken = False
        self._runtimes: dict[tuple[bool, str], Runtime] = {}

    def loaded(self, path: Path, fused: bool) -> LoadedModel:
        """The network of a weight file, in eval mode."""
        from engine.detect.model_io import load_model

        self._look_at(path)
        if self._loaded is None:
            self._loaded = load_model(path)
            if not hasattr(self._loaded.module, "names"):  # as people read it: model.model.names
                self._loaded.module.names = dict(enumerate(self._loaded.names))
        if not fused:
            return self._loaded
        if self._fused is None or (self.is_taken and not self._fused.follow()):
            self._fused = Fused(self._loaded)
            self._runtimes = {key: each for key, each in self._runtimes.items() if not key[0]}
        return self._fused.loaded

    def runtime(self, path: Path, fused: bool, device: str) -> Runtime:
        """The file ready to run; the network is moved to the device."""
        from engine.detect.model_io import is_weight_file
        from engine.detect.runtime import choose_device, load_runtime, runtime_of_file

        self._look_at(path)
        if is_weight_file(str(path)):
            loaded, place = self.loaded(path, fused), choose_device(device)
            loaded.module.to(place).eval()
            if (fused, device) not in self._runtimes:
                self._runtimes[fused, device] = runtime_of_file(loaded, place, path)
        elif (fused, device) not in self._runtimes:
            self._runtimes[fused, device] = load_runtime(path, device)
        return self._runtimes[fused, device]

    def is_changed(self) -> bool:
        """Whether the network in memory has other weights than were read."""
        return self._loaded is not None and not _has(self._loaded.module, self._loaded.state)

    def is_fused_changed(self) -> bool:
        """Whether the fused network has other weights than fusing gave it."""
        return self._fused is not None and self._fused.is_changed()

    def _look_at(self, path: Path) -> None:
        try:
            file: tuple[Any, ...] = (path.absolute(), *file_state(path.stat()))
        except OSError:  # the loader says what is wrong with it
            file = (path.absolute(),)
        if file != self._file:
            self.__init__()
            self._file = file


class Fused:
    """The fused copy of a network, which takes over what is changed in the network."""

    def __init__(self, whole: LoadedModel) -> None:
        self._whole = whole
        self.loaded = dataclasses.replace(whole, module=whole.family.fuse(whole.module))
        self._note()

    def follow(self) -> bool:
        """Fuse again where the network was changed since; the fused module stays the same one.
        False: it cannot, for layers are others.

        Raises:
            ConfigError: it was changed, too, and would lose that.
        """
        if _has(self._whole.module, self._from):
            return True
        if self.is_changed():
            raise ConfigError(
                "the network and its fused copy were both changed in memory, and one change would "
                "undo the other: change the network only, before or after fuse()"
            )
        now = self._whole.family.fuse(self._whole.module).state_dict()
        if not _fits(now, self._given):
            return False
        self.loaded.module.load_state_dict(now)
        self._note()
        return True

    def is_changed(self) -> bool:
        """Whether it has other weights than fusing gave it. A family that does not fuse has one
        network, which is no copy.
        """
        is_copy = self.loaded.module is not self._whole.module
        return is_copy and not _has(self.loaded.module, self._given)

    def _note(self) -> None:
        self._from, self._given = _state(self._whole.module), _state(self.loaded.module)


def _state(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: each.detach().clone() for name, each in network.state_dict().items()}


def _fits(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(one[k].shape == other[k].shape for k in one)


def _has(network: torch.nn.Module, state: Mapping[str, torch.Tensor]) -> bool:
    """Whether the weights of a network are those."""
    import torch

    now = network.state_dict()
    return now.keys() == state.keys() and all(
        torch.equal(now[name], then.to(now[name].device)) for name, then in state.items()
    )


class YOLO(Detector):
    """`Detector` under the name that many look for; it takes networks of every family."""


def _device_named(device: Any) -> str:
    """The text of a device: of a number, a `torch.device` or a text. ConfigError: not there."""
    from engine.detect.runtime import choose_device

    return str(choose_device(f"cuda:{device}" if str(device).isdecimal() else str(device)))


def _check_task(model: str, task: str | None) -> None:
    """ConfigError where something else than detection is asked for, by `task` or by a name such as
    yolov8n-seg.
    """
    from engine.detect.familiar import BOXES_ONLY, TASKS

    stem = Path(model).stem
    network, _, ending = stem.rpartition("-")
    asked = task if task not in (None, "detect") else ""
    if not asked and network.startswith("yolo") and not Path(model).exists():
        asked = ending if ending in TASKS else ""
    if asked:
        name = network if network.startswith("yolov8") else "yolov8n"
        raise ConfigError(
            f"{f'task={asked!r}' if asked == task else repr(model)}: {BOXES_ONLY} "
            f"{TASKS.get(asked, f'task {asked!r}')}. Detectors are YOLO({name!r}) and the like"
        )


def _data_of_run(weights: Path) -> str | None:
    """The data that weights in a run directory were trained on, where these are still there."""
    from engine.settings.base import load_yaml

    args = weights.parent.parent / "args.yaml"
    if weights.parent.name != "weights" or not args.is_file():
        return None
    data = load_yaml(args).get("data")
    return str(data) if data and Path(str(data)).exists() else None

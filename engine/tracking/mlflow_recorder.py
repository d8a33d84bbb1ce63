"""Journal records become calls to MLflow: one function per record, each safe to repeat.

    start    find the run by its key or make it; it is running from here on
    attach   find the run that has these weights, or make one and do the records of `otherwise`
    params, tags, metrics, inputs, artifact, image, note
    end      the run is over, unless it was already

Whatever decides which run is meant stands in the first record of a journal; the others follow it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from engine.locks import locked
from engine.tracking.journal import Journal, Record, is_held, left_behind
from engine.tracking.mlflow_client import Store, uploading
from engine.tracking.run_description import describe
from engine.tracking.run_metadata import TIME

logger = logging.getLogger("detectflow.tracking")

KEY, WEIGHTS, WORKSPACE = (
    "detectflow.key",
    "weights_sha256",
    "detectflow.workspace",
)  # tags by which runs are found
# tag of the runs that describe no training and bring their description
OWN_NOTE = "detectflow.study"
DESCRIPTION = "mlflow.note.content"  # tag
IMAGES, IMAGE_PX = "images", 1600  # folder of MLflow's; most that is uploaded, as PNG
METRICS_PER_CALL, PARAMS_PER_CALL = 1000, 100  # MLflow's limits
TIMES = (f"{TIME}/", "time/")  # metrics of how long something took; the last: of older runs
DIED = "the process died"


class Recorder:
    """Sends the records of one journal. Every method raises what MLflow raises."""

    def __init__(self, store: Store, journal: Journal):
        self.store, self.client, self.journal = store, store.client, journal

    def perform(self, records: Sequence[Record]) -> None:
        """Send one record, or several of metrics together."""
        if records[0].get("do") == "metrics":
            return self._metrics(records)
        for record in records:
            action = ACTIONS.get(record.get("do", ""))
            if action is not None:  # else: damaged, or written by a later version
                action(self, record)

    @property
    def run_id(self) -> str:
        if self.journal.run_id is None:
            raise LookupError(f"{self.journal.folder}: begins with no run")
        return self.journal.run_id

    def _start(self, record: Record) -> None:
        self._mark_stale(record)
        found = self._found_or_made(record)
        if found is None:
            return
        self.journal.run_id = found.info.run_id
        self.client.update_run(self.run_id, status="RUNNING")
        if "ended" in found.data.tags:
            self.client.delete_tag(self.run_id, "ended")
        self._tags(record | {"values": record["tags"]})

    def _attach(self, record: Record) -> None:
        found = self.store.find_run(WEIGHTS, record["weights_sha256"])
        if found is not None:
            self.journal.run_id = found.info.run_id
            return
        made = self.store.find_run(KEY, record["key"])  # by us, before a crash
        if made is None:
            self._create(record)
        else:
            self.journal.run_id = made.info.run_id
        for inner in record["otherwise"]:
            self.perform([inner])
        # Last: with this tag the run counts as complete.
        self.client.set_tag(self.run_id, WEIGHTS, record["weights_sha256"])

    def _found_or_made(self, record: Record) -> Any | None:
        """The run of the record's key; None: there was none, it is made. One process at a time: its
        children make it too.
        """
        if record.get("parent"):
            parent = self._parent(record["parent"])  # before the lock, which it takes as well
            record = {**record, "tags": {**record["tags"], "mlflow.parentRunId": parent}}
        with locked(self.store.state / ".lock" / "mlflow-runs"):
            found = self.store.find_run(KEY, record["key"])
            if found is None:
                self._create(record)
        return found

    def _parent(self, record: Record) -> str:
        """The id of the run that a child names; the child's records may come first."""
        other = Recorder(self.store, Journal(self.journal.folder, None, closed=True))
        found = other._found_or_made(record)
        return found.info.run_id if found is not None else other.run_id

    def _create(self, record: Record) -> None:
        tags = {**record["tags"], KEY: record["key"], WORKSPACE: record["workspace"]}
        experiment = self.store.experiment(record["experiment"])
        run = self.client.create_run(
            experiment, start_time=record["at"], tags=tags, run_name=record["run_name"]
        )
        self.journal.run_id = run.info.run_id

    def _params(self, record: Record) -> None:
        from mlflow.entities import Param

        # Parameters cannot be changed; a resumed training may run on another device, say.
        present = self.client.get_run(self.run_id).data.params
        missing = [
            Param(key, value) for key, value in record["values"].items() if key not in present
        ]
        for begin in range(0, len(missing), PARAMS_PER_CALL):
            self.client.log_batch(
                self.run_id, params=missing[begin : begin + PARAMS_PER_CALL], synchronous=True
            )

    def _tags(self, record: Record) -> None:
        from mlflow.entities import RunTag

        tags = [RunTag(key, str(value)) for key, value in record["values"].items()]
        for begin in range(0, len(tags), PARAMS_PER_CALL):
            self.client.log_batch(
                self.run_id, tags=tags[begin : begin + PARAMS_PER_CALL], synchronous=True
            )

    def _metrics(self, records: Sequence[Record]) -> None:
        from mlflow.entities import Metric

        found = [
            Metric(key, value, record["at"], step)
            for record in records
            for key, value, step in self._points(record)
        ]
        for begin in range(0, len(found), METRICS_PER_CALL):
            self.client.log_batch(
                self.run_id, metrics=found[begin : begin + METRICS_PER_CALL], synchronous=True
            )

    def _points(self, record: Record) -> Iterator[tuple[str, float, int]]:
        """(key, value, step) of a record of metrics.

        What stages measure of weights that are there ("again") may be measured again: a value that
        is in the run already is no second point, one that has changed is the next step, and how
        long it took is told of the first time only.
        """
        values, step = record["values"], record["step"]
        present = self.client.get_run(self.run_id).data.metrics if record.get("again") else {}
        for key, value in values.items():
            if key not in present:
                yield key, value, step
            elif present[key] != value and not key.startswith(TIMES):
                history = self.client.get_metric_history(self.run_id, key)
                yield key, value, max(point.step for point in history) + 1

    def _inputs(self, record: Record) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        inputs = [
            DatasetInput(
                Dataset(
                    each["name"], each["digest"], "local", each["source"], profile=each["profile"]
                ),
                [InputTag("mlflow.data.context", each["context"])],
            )
            for each in record["datasets"]
        ]
        self.client.log_inputs(self.run_id, inputs)

    def _artifact(self, record: Record) -> None:
        file = self.journal.folder / record["file"]
        once = record.get("once", False)  # large: not kept any longer than needed
        if once and not file.exists():  # a newer one has taken its place, or it was sent before
            return
        with uploading(file):
            self.client.log_artifact(self.run_id, str(file), record["folder"])
        if once:
            self.journal.drop(record["file"])

    def _image(self, record: Record) -> None:
        """An image of an epoch. MLflow gives each file a name of its own, so ask for it first."""
        from PIL import Image

        key, step, at = record["key"], record["step"], record["at"]
        name = f"{IMAGES}/{key.replace('/', '~')}+step+{step}+timestamp+{at}+"
        logged = [each.path for each in self.client.list_artifacts(self.run_id, IMAGES)]
        if any(path.startswith(name) for path in logged):
            return
        file = self.journal.folder / record["file"]
        with Image.open(file) as opened:
            image = opened.convert("RGB")
        image.thumbnail((IMAGE_PX, IMAGE_PX))
        with uploading(file):
            self.client.log_image(
                self.run_id, image, key=key, step=step, timestamp=at, synchronous=True
            )

    def _note(self, record: Record) -> None:
        data = self.client.get_run(self.run_id).data
        if OWN_NOTE in data.tags:
            return
        self.client.set_tag(
            self.run_id, DESCRIPTION, describe(data.params, data.metrics, data.tags)
        )

    def _end(self, record: Record) -> None:
        if record.get("reason"):
            self.client.set_tag(self.run_id, "ended", record["reason"])
        if self.client.get_run(self.run_id).info.status in {"RUNNING", "SCHEDULED"}:
            self.client.set_terminated(self.run_id, record["status"], record["at"])

    def finish_for_the_dead(self, now_ms: int) -> None:
        """End the run of a training whose process left without a word."""
        if self.journal.run_id is not None and self.journal.first().get("do") == "start":
            self._end({"status": "KILLED", "at": now_ms, "reason": DIED})
            self._note({})

    def _mark_stale(self, record: Record) -> None:
        """End runs of this workspace that nobody works on: their journals went with `runs/`."""
        experiments = [each.experiment_id for each in self.client.search_experiments()]
        query = f"attributes.status = 'RUNNING' and tags.`{WORKSPACE}` = '{record['workspace']}'"
        alive = {record["key"]} | {
            self._key(each) for each in left_behind(self.journal.folder.parent) if is_held(each)
        }
        for run in self.client.search_runs(experiments, query):
            if run.data.tags.get(KEY) not in alive:
                self.client.set_tag(run.info.run_id, "ended", DIED)
                self.client.set_terminated(run.info.run_id, "KILLED")

    def _key(self, folder: Any) -> str | None:
        return Journal(folder, None, closed=True).first().get("key")


ACTIONS: dict[str, Callable[[Recorder, Record], None]] = {
    "start": Recorder._start,
    "attach": Recorder._attach,
    "params": Recorder._params,
    "tags": Recorder._tags,
    "metrics": lambda self, record: self._metrics([record]),
    "inputs": Recorder._inputs,
    "artifact": Recorder._artifact,
    "image": Recorder._image,
    "note": Recorder._note,
    "end": Recorder._end,
}

"""The graph of what came from what: merging, finding, walking, and both renderings, on statements
written by hand.

The real sources are asked in tests/flows/test_trace_pipeline.py.
"""

import json
import shutil
import subprocess
import sys

import cv2
import pytest
import toys

from engine.cli import main
from engine.errors import CheckpointError, ConfigError, WorkspaceError
from engine.files import sha256_file
from engine.lineage.evidence import Evidence, Statement
from engine.lineage.from_dvc import cache_folder, history_evidence
from engine.lineage.from_files import file_statements
from engine.lineage.graph import answer, find, trace
from engine.lineage.render import trace_text, trace_values

D1, D2 = "d1" * 32, "d2" * 32
W1, W2, W3 = "a1" * 32, "a2" * 32, "b3" * 32
X1 = "e1" * 32
SEEN, HELD, LATE = "1" * 64, "2" * 64, "3" * 64
STATEMENTS = (
    Statement(
        "data",
        D1,
        "manifests",
        {"name": "cells"},
        {SEEN: ("train", "seen.jpg"), HELD: ("test", "held.jpg")},
    ),
    Statement(
        "data",
        D2,
        "manifests",
        {"name": "cells 2"},
        {HELD: ("val", "held.jpg"), LATE: ("train", "late.jpg")},
    ),
    Statement(
        "weights",
        W1,
        "report 1",
        {"data_digest": D1, "settings": {"train.epochs": 7, "train.batch": 16}},
    ),
    Statement(
        "weights",
        W1,
        "run r1",
        {"data_digest": D1, "made_in": "r1", "settings": {"train.epochs": 7, "data.seed": 4}},
    ),
    Statement("weights", W2, "report 2", {"data_digest": D2, "start": (X1,)}),
    Statement("weights", W3, "report 3", {"data_digest": D2, "start": ()}),
    Statement("file", X1, "report 1", {"weights_sha256": W1, "format": "safetensors"}),
    Statement("run", "r1", "MLflow", {"data_digest": D1, "code": "commit c0ffee"}),
    Statement(
        "version", "detector/1", "MLflow", {"weights_sha256": W1, "aliases": "champion, previous"}
    ),
    Statement("version", "detector/2", "MLflow", {"weights_sha256": W2}),
)
THINGS = Evidence(list(STATEMENTS)).things()


def tree(nodes):
    return [(node.relation, node.kind, node.key, tree(node.children)) for node in nodes]


def test_equal_values_are_one_fact_with_all_its_sources():
    facts = {fact.name: fact for fact in THINGS["weights", W1].facts}
    assert facts["data_digest"].known_from == ["report 1", "run r1"]
    # Tables that agree where they overlap are one table.
    assert facts["settings"].value == {"train.epochs": 7, "train.batch": 16, "data.seed": 4}
    assert facts["settings"].known_from == ["report 1", "run r1"]


def test_a_model_is_followed_back_to_all_its_data_through_the_export_it_started_from():
    found = answer(("version", "detector/2"), THINGS, [])
    run = ("described by", "run", "r1", [])
    started = ("exported from", "weights", W1, [("trained on", "data", D1, []), run])
    assert tree(found.made_from) == [
        (
            "of",
            "weights",
            W2,
            [("trained on", "data", D2, []), ("started from", "file", X1, [started])],
        )
    ]


def test_data_lead_to_trainings_and_on_to_versions():
    found = answer(("data", D1), THINGS, [])
    (weights,) = found.led_to
    assert (weights.relation, weights.key) == ("trained on it:", W1)
    assert ("registered as", "version", "detector/1", []) in tree(weights.children)
    descendants = json.dumps(trace_values(found)["led_to"])
    assert W2 in descendants and W3 not in descendants


@pytest.mark.parametrize(
    ("image", "summary"),
    [
        (
            SEEN,
            (
                "learned from it: weights a1a1a1a1a1a1 (detector/1), weights a2a2a2a2a2a2 "
                "(detector/2)",
            ),
        ),
        (
            HELD,
            (
                "no model that is known here learned from it",
                "only measured with it: weights a1a1a1a1a1a1 (detector/1), weights a2a2a2a2a2a2 "
                "(detector/2), weights b3b3b3b3b3b3",
            ),
        ),
        (LATE, ("learned from it: weights a2a2a2a2a2a2 (detector/2), weights b3b3b3b3b3b3",)),
        (
            "9" * 64,
            (
                "no dataset that is known here holds an image with these bytes; a copy that was "
                "saved anew is another image",
            ),
        ),
    ],
)
def test_who_saw_an_image(image, summary):
    assert answer(("image", image), THINGS, []).summary == summary


def test_the_role_of_an_image_depends_on_its_split():
    found = answer(("image", HELD), THINGS, [])
    assert [(node.relation, node.key) for node in found.led_to] == [
        ("in split test as held.jpg, of", D1),
        ("in split val as held.jpg, of", D2),
    ]
    assert found.led_to[0].children[0].relation == "in the test split, not trained on it:"
    assert (
        found.led_to[1].children[0].relation
        == "validated with it after every epoch, not trained on it:"
    )


def test_a_training_that_started_from_itself_ends():
    loop = Evidence(
        [
            Statement("weights", W1, "x", {"start": (W2,)}),
            Statement("weights", W2, "x", {"start": (W1,)}),
        ]
    ).things()
    found = answer(("weights", W1), loop, [])
    assert [node.key for node in found.made_from] == [W2]
    assert found.made_from[0].children[0].again or found.made_from[0].children[0].key == W1


def test_what_is_known_by_dvcs_hash_only_joins_whoever_knows_both():
    lock = Statement("weights", "md5:77.dir", "dvc.lock in git", {"recorded by commit": "c0ffee"})
    tags = Statement("weights", W1, "MLflow", {"dvc_md5": "77.dir"})
    things = Evidence([lock, tags]).things()
    assert things["weights", W1].values("recorded by commit") == ["c0ffee"]
    assert list(Evidence([lock]).things()) == []


def test_sources_that_disagree_are_reported():
    things = Evidence(
        [*STATEMENTS, Statement("weights", W1, "a liar", {"data_digest": D2})]
    ).things()
    found = answer(("weights", W1), things, [])
    (note,) = found.notes
    assert (
        "disagree about data_digest" in note and "report 1 and run r1" in note and "a liar" in note
    )
    assert {node.key for node in found.made_from if node.kind == "data"} == {D1, D2}


def test_a_training_on_a_part_of_the_images_has_a_reservation():
    things = Evidence(
        [Statement("weights", W1, "x", {"settings": {"train.fraction": 0.5}})]
    ).things()
    assert (
        "train.fraction=0.5, on a part of the training images only"
        in answer(("weights", W1), things, []).notes[0]
    )


@pytest.mark.parametrize(
    ("text", "key"),
    [
        (D1, ("data", D1)),
        (D1[:9].upper(), ("data", D1)),
        ("b3b3b3b3", ("weights", W3)),
        (SEEN[:8], ("image", SEEN)),
        ("detector@champion", ("version", "detector/1")),
        ("detector@previous", ("version", "detector/1")),
        ("detector/2", ("version", "detector/2")),
        ("models:/detector/2", ("version", "detector/2")),
    ],
)
def test_names_and_beginnings_of_digests(text, key):
    assert find(text, THINGS, []) == key


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("f00df00d", "nothing that is known here begins with 'f00df00d'"),
        ("detektor@champion", "no registered model 'detektor' is known. Did you mean 'detector'?"),
        (
            "detector@chempion",
            "no alias 'chempion'. Did you mean 'champion'? Known aliases: champion, previous",
        ),
        ("detector/7", "no version 7 that is known. Known: 1, 2"),
    ],
)
def test_what_is_unknown_is_the_users_mistake_only_where_mlflow_answered(text, message):
    with pytest.raises(ConfigError, match=message.replace("?", r"\?")):
        find(text, THINGS, ["git: no repository"])
    with pytest.raises(WorkspaceError, match="MLflow at x: did not answer"):
        find(text, THINGS, ["MLflow at x: did not answer"])


def test_an_ambiguous_beginning_lists_the_candidates():
    things = Evidence([Statement("data", "a1" * 31 + "ff", "x"), *STATEMENTS]).things()
    with pytest.raises(
        ConfigError,
        match=f"beginning of 2 things: data {'a1' * 31}ff, weights {W1}. Give more digits",
    ):
        find("a1a1a1a1", things, [])


def test_text_has_numbered_sources_and_names_who_was_silent():
    text = trace_text(answer(("weights", W1), THINGS, ["MLflow: gone"]))
    assert "settings: train.epochs=7 data.seed=4 (the other 1 are the defaults)  [1,2]" in text
    assert f"├─ trained on data {D1}  [1,2]" in text and "└─ described by run r1  [2]" in text
    assert "could not be asked\n  MLflow: gone" in text
    assert "known from\n  [1] report 1\n  [2] run r1\n" in text


def test_values_are_json_and_each_fact_has_its_sources():
    values = json.loads(json.dumps(trace_values(answer(("version", "detector/1"), THINGS, []))))
    assert values["subject"]["facts"] == [
        {"name": "aliases", "value": "champion, previous", "known_from": ["MLflow"]}
    ]
    assert values["made_from"][0]["known_from"] == ["MLflow"]


# Wrong input, through the command -----------------------------------------------------------------


@pytest.fixture
def project(workspace, monkeypatch):
    monkeypatch.chdir(workspace)
    return workspace


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "trace takes one thing, not 0"),
        (["a", "b"], "trace takes one thing, not 2"),
        (["weights.pt"], "'weights.pt': no such file, and neither a model version"),
        (["1234abc"], "needs at least 8 hex digits, this has 7"),
        (["x" * 300], "no such file"),
        (["params.yaml"], "neither a model (.pt, .onnx, .safetensors) nor an image"),
        (["reports"], "no prepared dataset (reports/dataset.json is missing or damaged)"),
        (["12345678", "format=jsn"], "trace: format=jsn. Did you mean 'json'?"),
    ],
)
def test_wrong_requests_end_with_two(project, capsys, words, message):
    assert main(["trace", *words]) == 2
    assert message in capsys.readouterr().err


def test_unknown_versions_and_digests_in_a_real_registry(project, capsys):
    for text in ("detector@champion", "0123456789abcdef"):
        assert main(["trace", text]) == 2
    assert "no registered model 'detector' is known" in capsys.readouterr().err


@pytest.mark.parametrize("suffix", [".pt", ".safetensors", ".onnx", ".torchscript"])
@pytest.mark.parametrize("content", [b"", b"\xff" * 50, b"PK\x03\x04 no archive"])
def test_damaged_and_foreign_models(tmp_path, suffix, content):
    file = tmp_path / f"m{suffix}"
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"m\."):
        file_statements(file, "m")


def test_an_onnx_file_of_another_program(tmp_path):
    with pytest.raises(CheckpointError, match="not exported by this project"):
        file_statements(toys.write_detector(tmp_path / "other.onnx"), "other.onnx")


# Single sources -----------------------------------------------------------------------------------


def test_a_toy_project_with_a_real_registry_and_no_git(project):
    """Registered weights, an image under another name; git and DVC are silent and named."""
    from engine.stages import register

    trained = toys.train(project, epochs=1)
    toys.validate(project)
    toys.export(project)
    register.run(toys.params_of(project), project)
    found = trace("detector@champion", project)
    (weights, file) = found.made_from
    assert (weights.key, file.key) == (
        trained["weights_sha256"],
        sha256_file(project / "export" / "best.onnx"),
    )
    assert {node.kind for node in weights.children} == {"data", "run"}
    names = [sentence.split(":")[0] for sentence in found.unasked]
    fetched = f".cache/models/{file.key}/model.onnx"  # by stage register, to measure it
    assert names == [fetched, "export/best.onnx", "git", "DVC"]
    assert [fact.name for fact in found.subject.facts if fact.name in {"promoted", "held"}] == [
        "promoted"
    ]
    moved = project / "renamed.bin"
    shutil.copy(next((project / "data/prepared/images/val").glob("*.png")), moved)
    assert (
        trace("renamed.bin", project).summary[1]
        == f"only measured with it: weights {weights.key[:12]} (detector/1)"
    )
    images = (project / "data/prepared/images/val").glob("*.png")
    cv2.imwrite(str(project / "again.jpg"), cv2.imread(str(next(images))))
    assert "saved anew is another image" in trace("again.jpg", project).summary[0]


def test_nothing_is_made_where_there_is_no_database(project):
    (project / "mlflow.db").unlink()
    found = trace(str(project / "data/prepared"), project)
    assert any(sentence.startswith("MLflow: there is no database") for sentence in found.unasked)
    assert not (project / "mlflow.db").exists()


def test_a_server_that_is_away_is_named_within_seconds(project, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert any(
        each.startswith("MLflow at http://127.0.0.1:9: did not answer")
        for each in trace("data/prepared", project).unasked
    )
    with pytest.raises(WorkspaceError, match="did not answer"):
        trace("detector@champion", project)


def test_a_lock_without_its_cache_is_counted_and_its_dates_are_json(tmp_path):
    stage = (
        "{deps: [{path: engine/kernel, md5: 1.dir}], params: {params.yaml: {train: {since: "
        "2026-01-02}}}, "
    )
    (tmp_path / "dvc.lock").write_text(
        f"stages:\n  train: {stage}outs: [{{path: weights, md5: 77.dir}}]}}\n"
    )
    found = history_evidence(tmp_path, tmp_path)
    (statement,) = found.statements
    assert statement.key == "md5:77.dir" and statement.facts["params.yaml"] == {
        "train.since": "2026-01-02"
    }
    assert [sentence[:22] for sentence in found.unasked] == [
        f"git: {tmp_path}"[:22],
        "DVC: 1 recorded result",
    ]
    (tmp_path / "dvc.lock").write_text("<<<<<<< HEAD\nstages: [")  # in the middle of a merge
    assert history_evidence(tmp_path, tmp_path).statements == []


def test_dvcs_cache_may_lie_elsewhere(tmp_path):
    assert cache_folder(tmp_path) == tmp_path / ".dvc" / "cache"
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").write_text(
        "[core]\n    analytics = false\n[cache]\n    dir = ../shared\n"
    )
    assert cache_folder(tmp_path) == tmp_path / "shared"
    (tmp_path / ".dvc" / "config.local").write_text(
        "['remote \"x\"']\n    url = s3://y\n[cache]\n    dir = /mnt/cache\n"
    )
    assert str(cache_folder(tmp_path)) == "/mnt/cache"


def test_a_file_outside_a_project_needs_neither_mlflow_nor_dvc(tmp_path):
    """In a folder that is no project the file alone answers; the packages of the trackers are not
    even imported.
    """
    image = tmp_path / "1.png"
    cv2.imwrite(str(image), toys.image(1))
    code = (
        "import sys; from engine.cli import main; code = main(['trace', '1.png']);"
        "assert not {'mlflow', 'dvc', 'prefect'} & set(sys.modules); sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "no project here: only what the file says" in done.stdout


def test_what_happened_to_a_version_is_told_with_who_when_why_and_the_evidence(project):
    from engine.registry.moves import promote, roll_back
    from engine.stages import register

    for seed, shift in ((0, 1), (1, 0)):
        toys.train(project, epochs=1, seed=seed)
        toys.validate(project)
        toys.export(project, shift=shift)
        register.run(toys.params_of(project), project)
    roll_back("detector", "misses trucks since Monday; " + "seen by eye " * 20, project)
    promote("detector/2", "only on the mast", project)
    found = trace("detector/1", project)
    facts = [(fact.name, fact.value) for fact in found.subject.facts]
    names = [name for name, _ in facts]
    assert [name for name in names if name in {"promoted", "rolled back"}] == [
        "promoted",
        "rolled back",
    ]
    assert names.count("no champion since") == 2
    told = dict(facts)
    assert "by stage register, run by " in told["promoted"] and "decisions/" in told["promoted"]
    assert ", before: version 2: misses trucks" in told["rolled back"]
    assert told["no champion since"].endswith(", promoted: version 2: only on the mast")
    text = trace_text(found)
    assert "rolled back: 20" in text and "seen by eye seen by eye  [" in text.replace(
        "eye   [", "eye  ["
    )
    assert {"name", "value", "known_from"} == trace_values(found)["subject"]["facts"][0].keys()


def test_a_lock_with_values_that_cannot_be_read_records_nothing(tmp_path):
    from engine.lineage.from_dvc import _of_run_cache, _stages

    file = tmp_path / "runs" / "ab" / "cd" / "ef"
    file.parent.mkdir(parents=True)
    for text in ("cmd: !!float ''", "cmd: 2026-13-45", 'cmd: "\\UFFFFFFFF"', "cmd: !!timestamp x"):
        file.write_text(text)
        assert list(_of_run_cache(tmp_path)) == []
        assert _stages(f"stages: {{a: {{{text}}}}}") == []

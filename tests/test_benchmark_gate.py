"""benchmarks/gate.py: what its short cuts give is what comparing whole tables gives, and a run that
was cut off goes on where it was.
"""

import json
from dataclasses import astuple

import numpy as np
import pytest

from benchmarks import gate
from engine.metrics.paired import AP, AP50, compare


@pytest.mark.parametrize("in_group", [1, 4])
def test_classes_measured_once_give_what_comparing_whole_tables_gives(in_group):
    lost, images, seed = [0.0, 1.2, 0.5], 40, 3
    rng = np.random.default_rng([images, in_group, seed])
    drawn = gate.scene(rng, images, in_group)
    champion = gate.detector(rng, drawn, gate.CLASSES)
    groups = {name: f"{int(name) // in_group:05d}" for name in champion.images}
    last = []
    for worse, found in zip(lost, gate.pairs(images, in_group, lost, seed, 80), strict=True):
        own = np.random.default_rng([images, in_group, seed, 1])
        candidate = gate.detector(own, drawn, gate.CLASSES, worse)
        whole = compare(champion, candidate, groups, 80, seed)
        assert found.groups == whole.groups == images // in_group
        for metric in (AP, AP50):
            for one, other in zip(
                [found.mean[metric], *found.classes[metric].values()],
                [whole.mean[metric], *whole.classes[metric].values()],
                strict=True,
            ):
                assert astuple(one)[:4] == astuple(other)[:4]
                assert astuple(one)[4:] == pytest.approx(astuple(other)[4:], abs=1e-12)
        last.append(found.classes[AP]["class 2"].b)
    assert last[0] > last[2] > last[1]  # what was planted


def test_a_run_that_was_cut_off_goes_on_and_gives_the_same_rows(tmp_path, monkeypatch, capsys):
    def run(trials):
        asked = ["gate", "--trials", trials, "--images", "50", "--groups", "5", "--resamples", "40"]
        monkeypatch.setattr("sys.argv", [*asked, "--workers", "1", "--keep", str(kept)])
        gate.main()
        return capsys.readouterr().out

    monkeypatch.setattr(gate, "loss_for", lambda points: points / 10)  # 4 s, and of no matter here
    kept = tmp_path / "whole.jsonl"
    whole = run("6")
    assert len(whole.splitlines()) == 3 and "| 50 | 5 | 6 |" in whole
    kept = tmp_path / "cut.jsonl"
    run("2")
    assert [json.loads(line)["seed"] for line in kept.read_text().splitlines()] == [0, 1]
    assert run("6") == whole
    assert len(kept.read_text().splitlines()) == 6

"""A detector of transformers in two processes: it learns, and resumes to the same bits."""

import os
import subprocess
import sys
from pathlib import Path

import hf_networks
import pytest
import torch

from engine.core.checkpoint import load_checkpoint
from engine.core.results import read_results

pytestmark = pytest.mark.system

HERE = Path(__file__).parent
DIGITS = """
name: digits
format: generated
generator: digits
options: {train: 10, val: 4, test: 1, size: 64, max_px: 48}
names: ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]
licence: test
"""


@pytest.mark.parametrize("kind", ["d_fine", "rt_detr_v2", "rf_detr", "detr"])
def test_two_processes_train_and_resume(kind, tmp_path):
    hf_networks.save(tmp_path / "network", kind)
    (tmp_path / "digits.yaml").write_text(DIGITS)
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*words, HERE / "hf_script.py", tmp_path / "network", tmp_path / "digits.yaml", tmp_path],
        cwd=tmp_path,
        env={**os.environ, "DETECTFLOW_STATE": str(tmp_path), "OMP_NUM_THREADS": "1"}
        | {"PYTHONPATH": str(HERE.parents[1])},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    whole, gone_on = (
        load_checkpoint(tmp_path / name / "weights/last.pt") for name in ("whole", "cut")
    )
    assert whole.weights.keys() == gone_on.weights.keys()
    assert all(torch.equal(whole.weights[key], gone_on.weights[key]) for key in whole.weights)
    rows = read_results(tmp_path / "whole/results.csv")
    assert len(rows) == 3
    assert all(value == value for row in rows for value in row.values() if value is not None)

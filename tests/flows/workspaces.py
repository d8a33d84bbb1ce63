"""What the flow tests have in common: a copy of the project, and a user's shell in it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import warm_processes

ROOT = Path(__file__).resolve().parents[2]
COPIED = (
    "engine",
    "flows",
    "data",
    "models",
    "dvc.yaml",
    "params.yaml",
    "prefect.yaml",
    ".dvc/config",
    ".dvc/.gitignore",
    ".dvc/plots",
    ".dvcignore",
    ".gitignore",
    "pyproject.toml",
)


def copy_project(target: Path) -> Path:
    """The files of the repository that a run needs, without state or results."""
    for name in COPIED:
        source = ROOT / name
        ignore = shutil.ignore_patterns("prepared")
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=ignore)
        elif source.exists():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target / name)
    return target


def shell(root: Path, *words: str, **env: str) -> subprocess.CompletedProcess:
    """Run a command of the environment that runs these tests, in `root`, with none of our own state
    in its environment. Python's commands, and the stages that DVC starts for one, are forked from
    the warm process; tests of signals and of parents start their own (`Driver`).
    """
    clean = clean_environment()
    clean["PATH"] = f"{warm_processes.programs()}{os.pathsep}{clean['PATH']}"
    return warm_processes.run(
        words,
        cwd=root,
        env={**clean, **env},
        text=True,
        capture_output=True,
        timeout=300,
    )


def clean_environment() -> dict[str, str]:
    """The environment of a user's shell with the project's programs in front."""
    clean = {
        k: v
        for k, v in os.environ.items()
        if not k.startswith(("PREFECT_", "MLFLOW_", "DVC_", "DETECTFLOW_"))
    }
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    someone = {
        f"GIT_{who}_{what}": f"t@{what}"
        for who in ("AUTHOR", "COMMITTER")
        for what in ("NAME", "EMAIL")
    }
    return {**clean, **someone, "PATH": path, "OMP_NUM_THREADS": "1", "DVC_NO_ANALYTICS": "1"}

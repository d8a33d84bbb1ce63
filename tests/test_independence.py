"""The engine works where prefect, mlflow and dvc are not installed, and `import engine` waits for
nothing heavy.
"""

import subprocess
import sys

WITHOUT = (
    "import sys; sys.modules.update(dict.fromkeys(('prefect', 'mlflow', 'dvc', 'sklearn', "
    "'matplotlib', 'onnx')))\n"
)


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_engine_imports_without_orchestrator_tracker_and_versioning():
    run(
        WITHOUT + "import engine.detect, engine.export, engine.yolo, engine.stages.train, "
        "engine.stages.validate, engine.stages.runner, engine.versioning.dvc_repo, "
        "engine.project.environment"
    )


def test_importing_engine_imports_no_torch():
    loaded = run(
        "import sys, engine; print(*[m for m in ('torch', 'cv2', 'pydantic', 'mlflow', 'prefect') "
        "if m in sys.modules])"
    )
    assert loaded == ""

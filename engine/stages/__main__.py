"""`python -m engine.stages NAME`: what dvc.yaml calls. Runs one stage, and ends with the command
that started it.

DVC leaves its children behind when it is killed, and the next `dvc repro` would train beside the
orphan; so the stage ends with its parent, and the workspace lock keeps a second one out.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from pathlib import Path
from types import FrameType

from engine.config import DetectionTrainConfig, Params
from engine.errors import INTERRUPTED, TERMINATED, EngineError, Terminated
from engine.plugins import look_in
from engine.project.environment import prepare_environment
from engine.project.parent_process import end_with_parent
from engine.project.workspace_lock import workspace_lock
from engine.signals import interrupts_are_heard, raised_safely
from engine.stages import code
from engine.stages.layout import STAGES, Layout
from engine.versioning.stage_inputs import load_definition, run_checked

logger = logging.getLogger("detectflow")


def main(argv: list[str] | None = None) -> int:
    """Run one stage; 0, or the error as one message and its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m engine.stages", description="Run one stage of dvc.yaml."
    )
    parser.add_argument("stage", help=", ".join((code.NAME, *STAGES)))
    parser.add_argument(
        "--no-wait",
        action="store_true",
        help="fail at once when another process holds the workspace",
    )
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    end_with_parent()
    signal.signal(signal.SIGTERM, _terminate)
    # Under DVC waiting could last for ever: DVC keeps this stage's outputs locked, which the holder
    # may need to record its own.
    wait = not options.no_wait and "DVC_STAGE" not in os.environ
    try:
        with interrupts_are_heard():
            root = prepare_environment()
            with workspace_lock(root, f"python -m engine.stages {options.stage}", wait=wait):
                _run(options.stage, root)
        return 0
    except EngineError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt as signalled:
        kept = (
            "what was prepared before is kept"
            if options.stage == "prepare"
            else "what it had finished is kept"
        )
        print(
            f"stage {options.stage} was interrupted; {kept}, run it again to go on", file=sys.stderr
        )
        return TERMINATED if isinstance(signalled, Terminated) else INTERRUPTED


def _run(stage: str, root: Path) -> None:
    if stage == code.NAME:  # always and often: without torch
        params = Params.load(root / "params.yaml")
        for name, what in code.write_code(params, root).items():
            logger.info("code of stage %s changed: %s", name, code.listed(what))
        if names_published_weights(params.train):  # a stage may not change what it depends on
            from engine.stages.start_weights import bring_published

            bring_published(params.train, root)
        return
    from engine.stages.runner import run_stage

    definition = load_definition(root, stage)
    if stage == "train":  # a mistake that only a later stage would find costs no training
        from engine.detect.choose import check_params

        look_in(root)
        check_params(Params.load(root / "params.yaml"), root)
    recorded = Layout(root).code(stage).relative_to(root).as_posix()
    if "DVC_STAGE" in os.environ and recorded in definition.deps:
        code.check_code(stage, Params.load(root / "params.yaml"), root)
    run_checked(root, definition, lambda: run_stage(stage, root))


def names_published_weights(config: DetectionTrainConfig) -> bool:
    """Whether a training may start from published weights: a guess without the networks' libraries,
    which take seconds to import.
    """
    names = [name for name in (config.model, config.pretrained) if isinstance(name, str)]
    from_timm = config.pretrained is True and config.backbone.startswith("timm:")
    return from_timm or any(name.startswith("hf:") or "@" in name for name in names)


@raised_safely
def _terminate(signum: int, frame: FrameType | None) -> None:
    # A second one (the parent's, then the kernel's) would only break into the ending that the first
    # has begun.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise Terminated


if __name__ == "__main__":
    sys.exit(main())

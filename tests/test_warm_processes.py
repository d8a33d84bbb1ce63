"""A command forked from the warm process is what the same command started anew is."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import warm_processes

ABOUT = """
import atexit, json, os, sys
atexit.register(print, "the end")
print(json.dumps({
    "argv": sys.argv[1:], "cwd": os.getcwd(), "given": os.environ.get("GIVEN"), "name": __name__,
    "path": sys.path[0], "stdin": sys.stdin.read(), "file": os.path.basename(__file__),
}))
"""
ENDS = {
    "nothing": ("", 0),
    "a code": ("import sys; sys.exit(3)", 3),
    "a sentence": ("import sys; sys.exit('no data here')", 1),
    "an error": ("raise ValueError('no data here')", 1),
    "a signal": ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", -9),
    "an interrupt": ("raise KeyboardInterrupt", -2),
    "a thread": (
        "import threading, time; threading.Thread(target=lambda: time.sleep(.2) or print(1)).start()",
        0,
    ),
}


@pytest.fixture
def program(tmp_path):
    """(text) -> the command that runs it as a module of the working folder."""

    def write(text):
        (tmp_path / "own_program.py").write_text(text)
        return [sys.executable, "-m", "own_program"]

    return write


def answers(command, folder, **options):
    """The finished process, from the warm one and anew."""
    options |= {"cwd": folder, "capture_output": True, "text": True, "timeout": 120}
    return [run(command, **options) for run in (warm_processes.run, subprocess.run)]


def test_arguments_folder_environment_and_streams_are_the_commands_own(program, tmp_path):
    command = [*program(ABOUT), "a", "b c"]
    with_given = {**os.environ, "GIVEN": "word"}
    warm, anew = answers(command, tmp_path, env=with_given, input="read me")
    assert warm.stdout == anew.stdout and warm.stdout.endswith("the end\n")
    said = json.loads(warm.stdout.splitlines()[0])
    assert said == {
        "argv": ["a", "b c"],
        "cwd": str(tmp_path),
        "given": "word",
        "name": "__main__",
        "path": str(tmp_path),
        "stdin": "read me",
        "file": "own_program.py",
    }


@pytest.mark.parametrize("end", ENDS)
def test_it_ends_as_it_would(program, tmp_path, end):
    text, code = ENDS[end]
    warm, anew = answers(program(text), tmp_path)
    assert (warm.returncode, warm.stdout) == (anew.returncode, anew.stdout) == (code, anew.stdout)
    assert warm.stderr.splitlines()[-1:] == anew.stderr.splitlines()[-1:]


def test_code_on_the_command_line(tmp_path):
    (tmp_path / "mine.py").write_text("VALUE = 3")
    code = "import mine, sys; print(mine.VALUE, sys.argv, __name__, sys.path[0]); mine.missing"
    warm, anew = answers([sys.executable, "-c", code, "a"], tmp_path)
    assert (warm.returncode, warm.stdout) == (anew.returncode, anew.stdout)
    assert warm.stdout == "3 ['-c', 'a'] __main__ \n"
    assert warm.stderr.splitlines()[-1] == anew.stderr.splitlines()[-1]


def test_a_mistake_in_the_command_line_is_reported_in_the_same_words(tmp_path):
    warm, anew = answers([sys.executable, "-m", "engine", "trian"], tmp_path)
    assert (warm.returncode, warm.stdout, warm.stderr) == (2, anew.stdout, anew.stderr)


def test_what_python_reads_at_its_start_starts_one(program, tmp_path):
    command = program("import sys; print(sys.flags.optimize, 'torch' in sys.modules)")
    warm, _ = answers(command, tmp_path)
    assert warm.stdout == "0 True\n"
    warm, _ = answers(command, tmp_path, env={**os.environ, "PYTHONOPTIMIZE": "2"})
    assert warm.stdout == "2 False\n"


def test_it_has_a_pid_of_its_own_and_can_be_signalled_and_timed_out(program, tmp_path):
    command = program("import os, time; print(os.getpid(), flush=True); time.sleep(60)")
    process = warm_processes.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    with process:
        assert int(process.stdout.readline()) == process.pid and process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == -signal.SIGTERM
    started = time.monotonic()
    with pytest.raises(subprocess.TimeoutExpired):
        warm_processes.run(command, cwd=tmp_path, capture_output=True, timeout=0.5)
    assert time.monotonic() - started < 30
    with pytest.raises(FileNotFoundError):
        warm_processes.run(command, cwd=tmp_path / "nowhere")


def test_what_another_program_starts_by_the_name_of_python_is_forked_too(program, tmp_path):
    program("import sys; print('torch' in sys.modules, sys.argv[1:]); sys.exit(5)")
    path = f"{warm_processes.programs()}{os.pathsep}{os.environ['PATH']}"
    for words, said, code in (
        ("python -m own_program a", "True ['a']", 5),
        ("python -c 'import sys; print(1, sys.argv[1:])' b", "1 ['b']", 0),
    ):
        done = subprocess.run(
            ["sh", "-c", words],
            cwd=tmp_path,
            env={**os.environ, "PATH": path},
            capture_output=True,
            text=True,
        )
        assert (done.stdout.strip(), done.returncode) == (said, code), done.stderr

"""A journal loses nothing, whoever dies when."""

import resource
import signal
import subprocess
import sys
import textwrap

import pytest

from engine.tracking.journal import RECORDS, Journal, is_held, left_behind


def records(journal):
    return [record for record, _ in journal.unsent()]


def test_what_is_appended_is_unsent_until_the_cursor_passes_it(tmp_path):
    journal = Journal.create(tmp_path, "train")
    journal.append({"n": 1}, {"n": 2, "name": "Zürich\nB"})
    first, second = journal.unsent()
    assert [first[0], second[0]] == [{"n": 1}, {"n": 2, "name": "Zürich\nB"}]
    journal.run_id = "r1"
    journal.sent(first[1])
    assert records(journal) == [{"n": 2, "name": "Zürich\nB"}]
    journal.append({"n": 3})
    journal.release()
    again = Journal.take(journal.folder)
    assert again.run_id == "r1" and again.closed
    assert [r["n"] for r in records(again)] == [2, 3]
    assert again.first() == {"n": 1}


def test_a_line_cut_by_a_crash_is_left_out_and_a_damaged_one_does_not_stop_the_rest(tmp_path):
    journal = Journal.create(tmp_path, "train")
    journal.append({"n": 1})
    with open(journal.folder / RECORDS, "ab") as stream:
        stream.write(b'\x00\xff damaged\n{"n": 2}\n{"n": 3, "val')
    assert records(journal) == [{"n": 1}, {}, {"n": 2}]


def test_a_held_journal_cannot_be_taken_and_one_that_was_sent_is_gone(tmp_path):
    journal = Journal.create(tmp_path, "train")
    assert left_behind(tmp_path) == [journal.folder]
    assert is_held(journal.folder) and Journal.take(journal.folder) is None
    journal.release()
    assert not is_held(journal.folder)
    taken = Journal.take(journal.folder)
    assert is_held(journal.folder)
    taken.remove()
    assert left_behind(tmp_path) == [] and Journal.take(journal.folder) is None


def test_journals_are_listed_in_the_order_they_were_made(tmp_path):
    made = [Journal.create(tmp_path, name).folder for name in ("train", "validate", "export")]
    assert left_behind(tmp_path) == sorted(made)


def test_a_kept_file_survives_its_original(tmp_path):
    journal = Journal.create(tmp_path / "journals", "train")
    names = []
    for text in ("one", "two"):
        (tmp_path / "plot.png").unlink(missing_ok=True)
        (tmp_path / "plot.png").write_text(text)
        names.append(journal.keep(tmp_path / "plot.png"))
    (tmp_path / "plot.png").unlink()
    assert [(journal.folder / name).read_text() for name in names] == ["one", "two"]
    assert all(name.endswith("/plot.png") for name in names)


def test_kill_9_leaves_every_record_that_was_appended(tmp_path):
    code = f"""
        import os, pathlib
        from engine.tracking.journal import Journal
        journal = Journal.create(pathlib.Path({str(tmp_path)!r}), "train")
        for n in range(5):
            journal.append({{"n": n}})
        os.kill(os.getpid(), {int(signal.SIGKILL)})
    """
    assert (
        subprocess.run([sys.executable, "-c", textwrap.dedent(code)]).returncode == -signal.SIGKILL
    )
    (folder,) = left_behind(tmp_path)
    assert [r["n"] for r in records(Journal.take(folder))] == [0, 1, 2, 3, 4]


def test_a_full_disk_is_an_error_that_leaves_no_half_record(tmp_path):
    journal = Journal.create(tmp_path, "train")
    journal.append({"n": 1})
    size = (journal.folder / RECORDS).stat().st_size
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(
        resource.RLIMIT_FSIZE, (size + 10, limits[1])
    )  # writes beyond fail, like those to a full disk
    try:
        with pytest.raises(OSError):
            journal.append({"n": 2, "much": "x" * 1000})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    journal.append({"n": 3})
    assert records(journal) == [{"n": 1}, {"n": 3}]

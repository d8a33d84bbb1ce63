"""Remotes of the clone flow: one that is out of reach is asked again, one that refuses is not."""

import subprocess
import sys

import pytest
from prefect import flow
from prefect.states import Failed

from engine.errors import WorkspaceError
from flows import pipeline_in_clone
from flows.pipeline_in_clone import (
    RemoteUnreachable,
    may_answer_later,
    output_of,
    replaceable,
    require_remote,
)


def test_a_remote_out_of_reach_may_answer_later(project):
    with pytest.raises(
        RemoteUnreachable, match="`git ls-remote http://127.0.0.1:9/x.git` failed in"
    ) as lost:
        output_of(project, ["git", "ls-remote", "http://127.0.0.1:9/x.git"])
    assert may_answer_later(None, None, Failed(data=lost.value))


def test_a_remote_that_is_none_will_not(project):
    with pytest.raises(WorkspaceError, match="does not appear to be a git repository") as refused:
        output_of(project, ["git", "ls-remote", str(project / "nowhere.git")])
    assert not may_answer_later(None, None, Failed(data=refused.value))


def test_without_a_dvc_remote_it_is_refused_before_anything_is_done(project):
    with pytest.raises(WorkspaceError, match="no default DVC remote.*dvc remote add"):
        require_remote(project)


def git(folder, *command):
    who = ["-c", "user.name=Ada", "-c", "user.email=ada@lab.org"]
    done = subprocess.run(
        ["git", *who, *command], cwd=folder, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


@pytest.fixture
def clone(tmp_path):
    """A remote with branches main and release, and a way to clone it afresh."""
    (tmp_path / "remote").mkdir()
    git(tmp_path / "remote", "init", "-q", "--bare", "-b", "main")
    git(tmp_path, "clone", "-q", "remote", "people")
    people = tmp_path / "people"
    (people / "params.yaml").write_text("train: {}\n")
    git(people, "add", "-A")
    git(people, "commit", "-qm", "ours")
    git(people, "push", "-q", "origin", "HEAD:main", "HEAD:release")

    def make(name, *options):
        git(tmp_path, "clone", "-q", *options, "remote", name)
        (tmp_path / name / "params.yaml").write_text(f"train: {{}}  # {name}\n")
        return tmp_path / name

    return make


def publish(folder, branch):
    return pipeline_in_clone.publish.fn(str(folder), branch, "digits")


@pytest.mark.parametrize("branch", ["main", "release"])
def test_a_branch_of_people_is_refused_by_name_and_stays(clone, branch):
    folder = clone("first")
    before = git(folder, "ls-remote", "origin")
    for refused in (publish, replaceable):
        with pytest.raises(WorkspaceError, match=f"branch '{branch}' is on the remote already"):
            refused(folder, branch)
    assert git(folder, "ls-remote", "origin") == before


def test_a_branch_of_this_flow_is_replaced_and_one_that_people_went_on_with_is_not(clone):
    first, second, third = clone("first"), clone("second"), clone("third")
    assert publish(first, "results/x") and publish(second, "results/x")
    assert publish(second, "results/x") is None, "nothing new"
    assert "second" in git(third, "show", f"{tip(third, 'results/x')}:params.yaml")
    git(third, "checkout", "-q", "-B", "results/x", tip(third, "results/x"), "--force")
    git(third, "commit", "-q", "--allow-empty", "-m", "reviewed")
    git(third, "push", "-q", "origin", "HEAD:release", "HEAD:results/x", "--force")
    for branch in ("results/x", "release"):
        with pytest.raises(WorkspaceError, match="destroy somebody's work"):
            publish(clone(f"of {branch}".replace("/", "-")), branch)


def test_a_branch_merged_elsewhere_is_not_this_flows_there(clone):
    folder = clone("first")
    assert publish(folder, "results/x")
    git(folder, "push", "-q", "--force", "origin", "HEAD:refs/heads/release")  # by people, as it is
    with pytest.raises(WorkspaceError, match="branch 'release'"):
        publish(clone("second"), "release")


def tip(folder, branch):
    git(folder, "fetch", "-q", "origin", branch)
    return git(folder, "rev-parse", "FETCH_HEAD")


def test_somebody_who_pushes_meanwhile_wins(clone, monkeypatch):
    folder, other = clone("first"), clone("second")
    there = pipeline_in_clone.replaceable

    def and_then(root, branch):
        found = there(root, branch)
        git(other, "push", "-q", "origin", f"HEAD:refs/heads/{branch}")
        return found

    monkeypatch.setattr(pipeline_in_clone, "replaceable", and_then)
    with pytest.raises(WorkspaceError, match="stale info|rejected"):
        publish(folder, "results/x")


@pytest.mark.parametrize("name", ["-f", "a b", "x..y", "@{-1}", ""])
def test_what_is_no_branch_is_refused(clone, name):
    with pytest.raises(WorkspaceError, match="no name that git takes"):
        replaceable(clone("first"), name)


@pytest.mark.system
def test_the_task_is_tried_again_only_for_a_remote_out_of_reach(
    project, prefect_server, monkeypatch
):
    tries = []
    soon = pipeline_in_clone.pull.with_options(retry_delay_seconds=0)

    @flow
    def bring():
        soon(str(project))

    for address, wanted in (("http://127.0.0.1:9/x.git", 4), (str(project / "nowhere.git"), 1)):

        def asked(root, command, address=address):
            tries.append(command)
            return output_of(root, ["git", "ls-remote", address])

        monkeypatch.setattr(pipeline_in_clone, "output_of", asked)
        tries.clear()
        with pytest.raises(WorkspaceError):
            bring()
        assert len(tries) == wanted and all(command[0] == sys.executable for command in tries)

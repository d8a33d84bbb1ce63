"""Remotes of the clone flow: one that is out of reach is asked again, one that refuses is not."""

import sys

import pytest
from prefect import flow
from prefect.states import Failed

from engine.errors import WorkspaceError
from flows import pipeline_in_clone
from flows.pipeline_in_clone import RemoteUnreachable, may_answer_later, output_of, require_remote


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

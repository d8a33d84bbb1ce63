"""What `pip check` does not know: Prefect 3.8.8 let every flow die beside fastapi 0.155, and its
schedules never fired beside SQLAlchemy 2.1. Of 3.9.1 we know that both work beside what is installed,
and that cron schedules need whenever 0.11 on Python 3.11 and 3.12.
"""

import time
from datetime import timedelta

import pytest
from packaging.version import Version

SCHEDULED_WITHIN_S = 30


@pytest.mark.system
def test_a_schedule_fires_and_a_flow_runs(prefect_server):
    from prefect import flow, get_client
    from prefect.client.schemas.actions import DeploymentScheduleCreate
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterDeploymentId
    from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule

    @flow
    def two():
        return 2

    assert two() == 2
    for every_hour in (
        IntervalSchedule(interval=timedelta(hours=1)),
        CronSchedule(cron="0 * * * *"),
    ):
        schedule = DeploymentScheduleCreate(schedule=every_hour, active=True)
        with get_client(sync_client=True) as client:
            deployment = client.create_deployment(
                client.create_flow(two), name="hourly", schedules=[schedule]
            )
            mine = FlowRunFilter(deployment_id=FlowRunFilterDeploymentId(any_=[deployment]))
            deadline = time.monotonic() + SCHEDULED_WITHIN_S
            while (
                not (runs := client.read_flow_runs(flow_run_filter=mine))
                and time.monotonic() < deadline
            ):
                time.sleep(0.2)
            assert runs and all(run.state.is_scheduled() and run.auto_scheduled for run in runs)
            client.delete_deployment(deployment)


def test_the_installed_versions_are_those_that_were_tried():
    """Prefect itself asks for a fastapi below 0.151 since 3.9; of SQLAlchemy 2.1 it needs 3.9.1."""
    from importlib.metadata import version

    assert Version("3.9.1") <= Version(version("prefect")) < Version("3.10")
    assert Version("2.1") <= Version(version("sqlalchemy")) < Version("3")
    assert Version(version("fastapi")) < Version("0.151")

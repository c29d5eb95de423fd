"""Trainings on request."""

from readmit_chassis.migrations import run_sql

revision = "0002_requests"
down_revision = "0001_jobs"


def upgrade() -> None:
    """Run the file of SQL beside this one."""
    run_sql(__file__)

"""Trials of searches."""

from readmit_chassis.migrations import run_sql

revision = "0003_search_trials"
down_revision = "0002_requests"


def upgrade() -> None:
    """Run the file of SQL beside this one."""
    run_sql(__file__)

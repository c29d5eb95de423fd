"""The bundles of finished jobs."""

from readmit_chassis.migrations import run_sql

revision = "0005_bundles"
down_revision = "0004_outcomes"


def upgrade() -> None:
    """Run the file of SQL beside this one."""
    run_sql(__file__)

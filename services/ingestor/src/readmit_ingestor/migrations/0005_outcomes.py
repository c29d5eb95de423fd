"""What happened after a prediction, and the way from there into a training batch."""

from readmit_chassis.migrations import run_sql

revision = "0005_outcomes"
down_revision = "0004_lineage"


def upgrade() -> None:
    """Run the file of SQL beside this one."""
    run_sql(__file__)

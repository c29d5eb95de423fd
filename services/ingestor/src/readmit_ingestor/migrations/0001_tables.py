"""Raw rows, clean rows by split, batches, ingestions."""

from readmit_chassis.migrations import run_sql

revision = "0001_tables"
down_revision = None


def upgrade() -> None:
    """Run the file of SQL beside this one."""
    run_sql(__file__)

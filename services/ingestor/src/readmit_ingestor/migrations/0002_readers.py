"""Who else may read, table by table."""

from readmit_chassis.migrations import run_sql

revision = "0002_readers"
down_revision = "0001_tables"


def upgrade() -> None:
    """Run the file of SQL beside this one."""
    run_sql(__file__)

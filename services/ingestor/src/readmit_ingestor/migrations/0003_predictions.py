"""What was predicted in service."""

from readmit_chassis.migrations import run_sql

revision = "0003_predictions"
down_revision = "0002_readers"


def upgrade() -> None:
    """Run the file of SQL beside this one."""
    run_sql(__file__)

"""Where a version comes from; quarantined rows that can be corrected."""

from readmit_chassis.migrations import run_sql

revision = "0004_lineage"
down_revision = "0003_predictions"


def upgrade() -> None:
    """Run the file of SQL beside this one."""
    run_sql(__file__)

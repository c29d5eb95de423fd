"""The ledger of decisions; what each pod serves."""

from readmit_chassis.migrations import run_sql

revision = "0001_ledger"
down_revision = None


def upgrade() -> None:
    """Run the file of SQL beside this one."""
    run_sql(__file__)

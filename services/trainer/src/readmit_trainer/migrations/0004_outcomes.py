"""Progress, reasons of failure, and jobs that a newer batch has made needless."""

from readmit_chassis.migrations import run_sql

revision = "0004_outcomes"
down_revision = "0003_search_trials"


def upgrade() -> None:
    """Run the file of SQL beside this one."""
    run_sql(__file__)

"""Predictions with their outcomes, champions, and the judgement on them."""

from readmit_chassis.migrations import run_sql

revision = "0002_outcomes"
down_revision = "0001_windows"


def upgrade() -> None:
    """Run the file of SQL beside this one."""
    run_sql(__file__)

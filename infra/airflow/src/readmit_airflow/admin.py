"""`python -m readmit_airflow.admin`: the login `admin` exists and has the password of AIRFLOW_ADMIN_PASSWORD.

In Airflow's own command a password is an argument, which every process of the machine can read.
"""

from __future__ import annotations

import logging
import os

from airflow.providers.fab.auth_manager.cli_commands.utils import get_application_builder
from airflow.utils.providers_configuration_loader import providers_configuration_loaded

log = logging.getLogger(__name__)

LOGIN = "admin"


@providers_configuration_loaded
def ensure_admin(password: str) -> None:
    """Make the login, or give it this password. Raises RuntimeError when Airflow refuses."""
    with get_application_builder() as builder:
        security = builder.sm
        user = security.find_user(username=LOGIN)
        if user is None:
            role = security.find_role("Admin")
            done = security.add_user(LOGIN, "Readmit", "Admin", "admin@readmit.example.com", role, password)
        else:
            done = security.reset_password(user.id, password)
    if not done:
        raise RuntimeError(f"Airflow did not accept the login {LOGIN}; its log says why")


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    ensure_admin(os.environ["AIRFLOW_ADMIN_PASSWORD"])
    log.info("login %s: password set", LOGIN)

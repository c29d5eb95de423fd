"""JupyterLab's settings: behind a token, on one folder, without asking the network for anything."""

import os
from pathlib import Path

c = get_config()  # noqa: F821  Jupyter provides it

# Read here and not from the environment: every notebook would inherit that.
c.IdentityProvider.token = (
    (Path(os.environ.get("READMIT_SECRETS_DIR", "/run/secrets")) / "JUPYTER_TOKEN").read_text().strip()
)
c.ServerApp.ip = os.environ.get("JUPYTER_HOST", "0.0.0.0")  # noqa: S104  in its container; the port is published or not
c.ServerApp.port = int(os.environ.get("JUPYTER_PORT", "8888"))
c.ServerApp.port_retries = 0
c.ServerApp.open_browser = False
c.ServerApp.root_dir = os.environ.get("JUPYTER_WORK", "/home/readmit/work")
c.LabApp.app_settings_dir = str(Path(__file__).parent)  # overrides.json: no news, and no question about them
c.LabApp.extension_manager = "readonly"
c.LabApp.news_url = None
c.LabApp.check_for_updates_class = "jupyterlab.NeverCheckForUpdate"

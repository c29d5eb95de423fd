"""`python -m readmit_dashboards write|check [ROOT]`: the files that are generated from the dashboards in code.

The JSON that Grafana provisions, `docs/dashboards.md` and its pictures. `check` exits with 1 and names what is stale.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from grafana_foundation_sdk.builders.dashboard import Dashboard
from grafana_foundation_sdk.cog.encoder import JSONEncoder

from readmit_dashboards.loop import the_loop
from readmit_dashboards.model import model
from readmit_dashboards.overview import document, picture
from readmit_dashboards.platform import platform
from readmit_dashboards.runbooks import runbooks
from readmit_dashboards.serving import serving


def generated_files(root: Path) -> dict[str, str]:
    """Path below the repository's root → text. The runbooks are read from the root."""
    panels = {name: _model(build()) for name, build in _DASHBOARDS.items()}
    chapters = _model(runbooks((root / "docs/runbooks.md").read_text(encoding="utf-8")))
    files = {
        f"infra/grafana/dashboards/{name}.json": json.dumps(dashboard, indent=2, sort_keys=True) + "\n"
        for name, dashboard in {**panels, "runbooks": chapters}.items()
    }
    files["docs/dashboards.md"] = document(panels)
    files |= {f"docs/images/dashboard-{name}.svg": picture(dashboard) for name, dashboard in panels.items()}
    return files


#: What the SDK adds unasked: a menu that hides links and annotations, and fields that Grafana's schema does not have.
_ADDED: dict[str, Any] = {
    "placement": "inControlsMenu",
    "footer": {"countRows": False, "reducer": [], "show": False},
    "auto": False,
    "auto_count": 30,
    "auto_min": "10s",
}

_DASHBOARDS = {"loop": the_loop, "serving": serving, "model": model, "platform": platform}


def _model(dashboard: Dashboard) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(json.dumps(dashboard.build(), cls=JSONEncoder), object_hook=_trimmed)
    return found


def _trimmed(part: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in part.items() if key not in _ADDED or value != _ADDED[key]}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m readmit_dashboards", description=__doc__)
    parser.add_argument("action", choices=["write", "check"])
    parser.add_argument("root", nargs="?", type=Path, default=Path.cwd(), help="root of the repository")
    arguments = parser.parse_args()
    stale = []
    for name, text in generated_files(arguments.root).items():
        path = arguments.root / name
        if arguments.action == "write":
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        elif not path.is_file() or path.read_text(encoding="utf-8") != text:
            stale.append(name)
    for name in stale:
        print(f"{name} is stale: run `PYTHONPATH=infra/grafana python -m readmit_dashboards write`", file=sys.stderr)  # noqa: T201
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())

"""One fit in a process of its own, on real parts but for S3, which is a folder: what a kill test kills.

Arguments: the settings as JSON, a folder, the job's id, the batch's event as JSON, the family. Prints each stage.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from uuid import UUID

from readmit_chassis.s3 import MemoryStore, split_uri
from readmit_contracts.events import BatchReady
from readmit_trainer.domain import FAMILIES, FitTask
from readmit_trainer.pipeline import open_pipeline
from readmit_trainer.settings import Settings


class FolderStore(MemoryStore):
    """Objects that outlive the process."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder

    def put(self, uri: str, data: bytes) -> None:
        path = self._folder.joinpath(*split_uri(uri))
        path.parent.mkdir(parents=True, exist_ok=True)
        (beside := path.with_name(f"{path.name}.{os.getpid()}")).write_bytes(data)
        beside.rename(path)


def main() -> None:
    """Fit once."""
    settings, folder, job_id, event, family = sys.argv[1:]
    [name] = [one for one in FAMILIES if one == family]
    task = FitTask(UUID(job_id), BatchReady.model_validate_json(event), name, "killed")
    pipeline = open_pipeline(Settings.model_validate_json(settings), FolderStore(Path(folder)))
    done = pipeline.run(task, lambda progress: say(progress.stage))
    say(f"version {done.registered.model.version}")


def say(line: str) -> None:
    """At once, whatever happens next."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()

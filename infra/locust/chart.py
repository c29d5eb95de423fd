"""Read the history of a run by number of users: a table on standard output, a picture in a file.

python infra/locust/chart.py load-report/history.csv [load.png]        the picture needs matplotlib
"""

from __future__ import annotations

import csv
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import median


@dataclass(frozen=True, slots=True)
class Level:
    """What was seen while this many users were there."""

    users: int
    requests: int
    failures: int
    # Medians over the seconds of the running figures that Locust writes (each over its last ten seconds).
    requests_per_s: float
    p50_ms: float
    p95_ms: float
    p99_ms: float


def levels(history: Path) -> list[Level]:
    """A level per number of users that lasted ten seconds or more, in the order of time."""
    with history.open(newline="") as lines:
        rows = [row for row in csv.DictReader(lines) if row["Name"] == "Aggregated" and row["50%"] != "N/A"]
    found: list[Level] = []
    for users in dict.fromkeys(int(row["User Count"]) for row in rows):
        at = [row for row in rows if int(row["User Count"]) == users]
        seconds = int(at[-1]["Timestamp"]) - int(at[0]["Timestamp"])
        if users == 0 or seconds < 10:
            continue
        # The running figures of the first ten seconds still hold what the users before saw.
        settled = [row for row in at if int(row["Timestamp"]) - int(at[0]["Timestamp"]) >= 10] or at
        running = [median(float(row[column]) for row in settled) for column in ("Requests/s", "50%", "95%", "99%")]
        requests, failures = (
            int(at[-1][f"Total {what} Count"]) - int(at[0][f"Total {what} Count"]) for what in ("Request", "Failure")
        )
        found.append(Level(users, requests, failures, *running))
    return found


def draw(found: list[Level], picture: Path) -> None:
    """Requests per second and response times over the number of users."""
    from matplotlib.figure import Figure  # noqa: PLC0415  only the picture needs it

    figure = Figure(figsize=(9, 3.4), layout="constrained")
    rate, time = figure.subplots(1, 2)
    users = [level.users for level in found]
    rate.plot(users, [count / 3 for count in users], color="#9aa5ad", ls="--", lw=1, label="all that the users ask for")
    rate.plot(users, [level.requests_per_s for level in found], "o-", ms=4, color="#1f5f8b", label="answered")
    rate.set(title="Requests per second", xlabel="users, each waiting 1-5 s between requests")
    time.plot(users, [level.p99_ms for level in found], "o-", ms=4, color="#d9772b", label="99th percentile")
    time.plot(users, [level.p95_ms for level in found], "o-", ms=4, color="#1f5f8b", label="95th percentile")
    time.plot(users, [level.p50_ms for level in found], "o-", ms=4, color="#9aa5ad", label="median")
    time.set(title="Response time in milliseconds", xlabel="users")
    for axis in (rate, time):
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_ylim(bottom=0)
        axis.legend(frameon=False)
    figure.savefig(picture, dpi=130)


def main() -> None:
    found = levels(Path(sys.argv[1]))
    print("| users | requests | failed | requests/s | median ms | 95 % ms | 99 % ms |")  # noqa: T201
    print("|--:|--:|--:|--:|--:|--:|--:|")  # noqa: T201
    for level in found:
        print(  # noqa: T201
            f"| {level.users} | {level.requests:,} | {level.failures} | {level.requests_per_s:.1f} "
            f"| {level.p50_ms:.0f} | {level.p95_ms:.0f} | {level.p99_ms:.0f} |"
        )
    if len(sys.argv) > 2:
        draw(found, Path(sys.argv[2]))


if __name__ == "__main__":
    main()

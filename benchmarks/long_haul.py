"""Twenty thousand trials in one run: memory, time for a proposal, size of the database, and how long `runs show` takes.

    python -m benchmarks.long_haul --to benchmarks/results/long_haul.json --picture docs/long_haul.png

The search is the real one in the space `resnet9` on the digits; trainings take no time (`benchmarks.cluster`).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from benchmarks.cluster import SimulatedCluster
from benchmarks.measure import machine, write
from jointnas.campaign.campaign import run
from jointnas.campaign.events import Event, RoundEnded
from jointnas.campaign.options import make_spec
from jointnas.campaign.spec import SearchSpec
from jointnas.campaign.store import DATABASE


def draw(rows: list[dict[str, Any]], to: Path) -> None:
    """Draw seconds for a candidate, memory and size of the database by the number of trials."""
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(9, 2.6), layout="constrained")
    for axis, key in zip(axes, ("seconds a candidate", "memory MB", "database MB"), strict=True):
        axis.plot([row["trials"] for row in rows], [row[key] for row in rows], marker=".")
        axis.set(xlabel="trials", title=key, ylim=(0, None))
    figure.savefig(to, dpi=120)


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=20_000)
    parser.add_argument("--batch", type=int, default=1000)
    parser.add_argument("--to", type=Path)
    parser.add_argument("--picture", type=Path)
    options = parser.parse_args()
    spec = make_spec(
        {
            "data": "digits",
            "train_steps": 100,
            "constraints": ["macs<2M"],
            "batch": options.batch,
            "rounds": options.trials // options.batch,
            "workers": options.batch,
            "executor": "ray:simulated",
            "confirm": 0,
            "final": "best",
            "portfolio": 0,
        }
    )
    assert isinstance(spec, SearchSpec)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        path, last = Path(folder) / "run", time.perf_counter()

        def watch(event: Event) -> None:
            nonlocal last
            if isinstance(event, RoundEnded):
                now = time.perf_counter()
                database = sum(file.stat().st_size for file in path.glob(f"{DATABASE}*"))
                row = {
                    "trials": event.number * options.batch,
                    "seconds a candidate": round((now - last) / options.batch, 5),
                    "memory MB": round(psutil.Process().memory_info().rss / 1e6),
                    "database MB": round(database / 1e6, 1),
                }
                rows.append(row)
                print(row, flush=True)
                last = now

        run(spec, [watch], out=path, executor=SimulatedCluster(options.batch))
        jointnas = str(Path(sys.executable).with_name("jointnas"))
        shown = {}
        for command in (["runs", "show", "run"], ["runs", "show", "run", "--json"], ["runs", "list"]):
            start = time.perf_counter()
            subprocess.run([jointnas, *command], cwd=folder, check=True, capture_output=True)
            shown[" ".join(command)] = round(time.perf_counter() - start, 2)
    print(shown)
    if options.picture:
        draw(rows, options.picture)
    write({"machine": machine(), "rows": rows, "seconds of commands": shown}, options.to)


if __name__ == "__main__":
    main()

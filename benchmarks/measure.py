"""What the benchmarks share: arms that take turns, medians and spreads, and the machine they ran on."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torchvision

from jointnas.training.precision import trains_in_bfloat16


def take_turns(arms: Mapping[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    """Run every arm once a round and return what each gave, in the order of the rounds."""
    found: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(repeats):
        for name, arm in arms.items():
            found[name].append(arm())
    return found


def ratio(numerators: Sequence[float], denominators: Sequence[float]) -> dict[str, float]:
    """Return median, least and greatest of the ratios of the same rounds."""
    values = [a / b for a, b in zip(numerators, denominators, strict=True)]
    return {
        "median": round(statistics.median(values), 3),
        "min": round(min(values), 3),
        "max": round(max(values), 3),
    }


def machine() -> dict[str, Any]:
    """Return versions and hardware."""
    names = [line.partition(":")[2].strip() for line in _cpu_lines() if line.startswith("model name")]
    return {
        "cpu": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "threads": torch.get_num_threads(),
        "bfloat16": trains_in_bfloat16(torch.device("cuda" if torch.cuda.is_available() else "cpu")),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
    }


def _cpu_lines() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def write(found: Mapping[str, Any], to: Path | None) -> None:
    """Print the findings as JSON, and keep them in a file where one is named."""
    text = json.dumps(found, indent=1)
    print(text)
    if to:
        to.parent.mkdir(parents=True, exist_ok=True)
        to.write_text(text + "\n")

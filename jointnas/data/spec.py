"""Which images a run takes: their source, their counts and size, and the seed that draws them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jointnas.data.sources import source_names


@dataclass(frozen=True)
class DataSpec:
    """Which images: a source's name or path, how many of them, and the seed that draws them."""

    source: str = "digits"
    train_images: int | None = None
    val_images: int | None = None
    image_size: int | None = None
    seed: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return the fields; a path becomes absolute, so that it is valid in any folder."""
        named = self.source in source_names()
        return {**asdict(self), "source": self.source if named else str(Path(self.source).expanduser().resolve())}

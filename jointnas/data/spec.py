"""Which images a run takes: their source, their counts and size, and the seed that draws them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jointnas.data.images import CROP, STRETCH
from jointnas.data.sources import source_names


@dataclass(frozen=True)
class DataSpec:
    """Which images: a source's name or path, how many of them, and the seed that draws them.

    image_size, fit: the side that images of mixed sizes are brought to, and how (`images.decode`).
    """

    source: str = "digits"
    train_images: int | None = None
    val_images: int | None = None
    image_size: int | None = None
    seed: int = 0
    fit: str = CROP

    def to_json(self) -> dict[str, Any]:
        """Return the fields; a path becomes absolute, so that it is valid in any folder."""
        named = self.source in source_names()
        return {**asdict(self), "source": self.source if named else str(Path(self.source).expanduser().resolve())}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> DataSpec:
        """Return what `to_json` wrote; versions that wrote no `fit` stretched images. Raises `TypeError` for unknown fields."""
        return cls(**{"fit": STRETCH, **values})

"""What a user says of the images: their source, how many, their size, and the seed that draws them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jointnas.data.sources import NAMED


@dataclass(frozen=True)
class DataSpec:
    """Which images: a source's name or path, how many of them, and the seed that draws them."""

    source: str = "digits"
    train_images: int | None = None
    val_images: int | None = None
    image_size: int | None = None
    seed: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return the fields; a path is made absolute, so that the data is found from any folder."""
        named = self.source in NAMED
        return {**asdict(self), "source": self.source if named else str(Path(self.source).expanduser().resolve())}

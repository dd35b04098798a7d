"""The built-in spaces that have networks; the others are of policies."""

from __future__ import annotations

from jointnas.space.space import Space, built_in_spaces

SPACES_OF_NETWORKS = [name for name in built_in_spaces() if not Space.load(name).is_abstract]

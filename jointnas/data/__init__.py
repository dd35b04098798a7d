"""Images for training: named sets, folders, zips and arrays, decoded once, split three ways."""

from jointnas.data.dataset import Data, DataSpec, Split, load_data

__all__ = ["Data", "DataSpec", "Split", "load_data"]

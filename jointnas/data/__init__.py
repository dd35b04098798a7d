"""Images for training: named data sets, folders, zips and arrays, decoded once and split three ways."""

from jointnas.data.contract import Contents, Source, array_contents
from jointnas.data.dataset import Data, DataSpec, Split, load_data

__all__ = ["Contents", "Data", "DataSpec", "Source", "Split", "array_contents", "load_data"]

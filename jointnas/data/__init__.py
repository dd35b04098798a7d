"""Images: where they come from, how they are packed, and the three splits of a data set."""

"""One offline page about a run: what it found, what it cost, how far its predictions can be trusted."""

"""Training of one network with one recipe under a clock."""

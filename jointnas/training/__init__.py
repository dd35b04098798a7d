"""Training one network by one recipe under a clock."""

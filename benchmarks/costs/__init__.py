"""What counting costs takes, and how well measured costs are forecast."""

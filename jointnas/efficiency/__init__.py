"""How efficient models are relative to each other, over several metrics at once, with their uncertainty."""

"""How well predictors rank and searches find."""

"""Tables of real trainings: what makes them and what reads them."""

"""Lets the system's clock jump by hours, forwards and backwards, as Python reads it."""

import random
import time

real = time.time
time.time = lambda: real() + random.choice((-7200, -60, 0, 60, 7200))

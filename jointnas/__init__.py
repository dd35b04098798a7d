"""Joint architecture–recipe search for image classifiers under a training budget and hard cost constraints."""

__version__ = "0.1.0"

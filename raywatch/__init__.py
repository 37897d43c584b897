"""raywatch says why training on Ray failed, and starts it again from the newest whole checkpoint."""

__version__ = "0.1.0"

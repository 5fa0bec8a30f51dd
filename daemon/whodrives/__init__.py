"""Who is driving? The package behind the daemon of the same name."""

__version__ = "0.1.0"

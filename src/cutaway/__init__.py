"""See inside trained networks: explain, test the explanation, fix what it shows."""

__version__ = "0.1.0"

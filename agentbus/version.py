"""The version of the distribution, in its one place; `pyproject.toml` reads it from here."""

__version__ = "0.1.0"

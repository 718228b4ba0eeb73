"""The version of this package: that of the program it drives (``Cargo.toml``)."""

__version__ = "0.1.0"

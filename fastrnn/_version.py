"""The version, where setup.py, the extension and `fastrnn.__version__` read it."""

__version__ = "0.2.0"

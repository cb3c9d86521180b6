"""lit_vision: PyTorch Lightning experiments for vision. Importing it loads nothing heavy."""

__version__ = "0.1.0"

"""Losses that torch and segmentation_models_pytorch lack."""

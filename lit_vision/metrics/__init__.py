"""Metrics that torchmetrics lacks, computed over the whole set."""

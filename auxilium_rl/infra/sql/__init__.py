"""Runs, checkpoints and metrics in SQL."""

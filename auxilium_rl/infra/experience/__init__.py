"""Agents' experience on disk."""

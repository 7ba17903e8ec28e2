"""The auxilium command."""

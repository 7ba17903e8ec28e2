"""Replay shards: processes that each hold a share of the experience that off-policy runs draw from."""

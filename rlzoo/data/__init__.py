"""Recorded data: reading, choosing, scaling and writing it."""

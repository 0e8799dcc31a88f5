"""Gymnasium's environments as vectorised tasks that can be saved and put back exactly."""

"""From flags to a run: what the training scripts share."""

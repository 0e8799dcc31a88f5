"""Networks, image encoders and optimisers that agents share."""

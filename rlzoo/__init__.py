"""What every run shares: types, networks, replay buffer, training loop, run folder, checkpoints."""

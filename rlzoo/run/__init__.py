"""What surrounds a run: its folder, flags, signals, logs, display, films and checkpoints."""

"""D4RL's tasks and datasets on today's Gymnasium."""

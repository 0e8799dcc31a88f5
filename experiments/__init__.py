"""Scripts, where agents meet environments."""

"""One adapter per benchmark; a simulator is imported only when a task of it is asked for."""

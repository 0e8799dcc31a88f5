"""One file per agent: its frozen config dataclass and its class."""

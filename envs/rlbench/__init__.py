"""RLBench's tasks and demonstrations."""

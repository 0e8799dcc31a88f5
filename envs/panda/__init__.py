"""RLBench's tasks on MuJoCo: a stand-in."""

"""How the starts of a D4RL file's episodes differ, beside how its states differ: starts.py FILE."""

import sys

import h5py
import numpy as np

with h5py.File(sys.argv[1]) as file:
    observations, actions = file["observations"][:], file["actions"][:]
    ends = file["terminals"][:].astype(bool) | file["timeouts"][:].astype(bool)
starts = np.concatenate([[0], np.flatnonzero(ends)[:-1] + 1])

np.set_printoptions(precision=2, suppress=True, linewidth=110)
print(len(starts), "episodes; standard deviations by dimension")
print("states, all steps  ", observations.std(0))
print("states, first steps", observations[starts].std(0))
print("actions, first steps", actions[starts].std(0))

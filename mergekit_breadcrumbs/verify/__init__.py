"""After the merge: whether a folder holds exactly what its config says."""

"""Before the merge: what is wrong with a config."""

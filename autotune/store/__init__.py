"""What is on disk: the folder of a run, its journal, and the user's cache."""

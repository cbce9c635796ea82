"""`autotune search`: from what the user asked to the files a run leaves."""

"""The search: what to try next (`study`), in what order and for how long (`loop`)."""

"""The search: what to try next (`sampler`), in what order and for how long (`loop`, `ending`)."""

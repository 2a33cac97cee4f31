"""Studies: each measures a claim of tritonkit against a named baseline."""

"""Reading a Triton model repository: versions, manifests, verdicts and build records."""

"""`client`: images become answers, from Triton or from any artifact."""

"""What several API processes agree by: leases and rate limits. ``port`` is the contract."""

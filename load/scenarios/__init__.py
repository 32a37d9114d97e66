"""What simulated users do, one kind a module."""

"""What was said, read from the bodies of each API into one form. Pure; any JSON is taken."""

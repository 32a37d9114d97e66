"""Which session continues this history, and what exactly was said in it."""

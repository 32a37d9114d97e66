"""The engine behind one port: real vLLM, or the fake one that the unit tests use."""

"""The Responses API's own state: what continues what, and what is stored."""

"""What is tested of the session database elsewhere, on PostgreSQL; and what is PostgreSQL's own."""

"""Sessions as durable objects: types, SQL, and the service that moves them through their states."""

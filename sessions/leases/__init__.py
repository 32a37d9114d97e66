"""Pins: budgeted, expiring claims on a tier."""

"""A thousand simulated hours of one daemon."""

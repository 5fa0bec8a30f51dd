"""Programs for development and for integrators; nothing in the daemon imports them."""

"""What the daemon does on an emulated ARM."""

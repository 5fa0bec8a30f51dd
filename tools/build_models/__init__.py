"""Builds the model files, byte for byte the same everywhere."""

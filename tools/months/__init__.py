"""Adaptation and guests over simulated months."""

"""Real processes, brokers, microphones and models."""

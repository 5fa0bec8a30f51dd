"""Processor time, memory and delay of the daemon on this machine."""

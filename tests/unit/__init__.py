"""Modules by themselves: no process, broker or device."""

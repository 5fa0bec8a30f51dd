"""The daemon: one loop that feeds the engine and carries out its events.

Owns the inbox, wiring, signals, systemd and retries; the only package that constructs adapters.
Decides nothing about voices or cars.
Start with `daemon.Daemon.run`; `wiring` shows what is built from what; `replay` runs a recording.
"""

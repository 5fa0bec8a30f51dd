"""What measurements, stress runs and tests share: sound, people, conditions, clocks, machines.

Owns the reading of corpora, simulated conditions, the daemon's front end over a whole recording,
and metrics. Must not know what a program measures. Programs in tools/ import it; nothing else does.
Start with `corpus` for people and recordings, and `scene` for simulated cabins and noise.
"""

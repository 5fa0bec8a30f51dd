"""Persistent data: sealed profiles, the guest book, and the trip of a daemon that died.

Owns file formats, encryption, the key, and writes that survive a power cut.
Must not know how voices are compared or what is sent to the car. Never logs a name or an embedding.
Start with `profiles.ProfileStore`; `record` is what a profile file holds.
"""

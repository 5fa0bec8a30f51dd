"""Every setting: its default, unit, bounds and meaning, and the YAML that people write.

Owns parsing, error messages and the reference configuration, all generated from one schema.
Must not know what a setting does. Only `location` touches the disk.
Start with `schema.Config`.
"""

"""The command line: arguments, commands, the doctor, the demo.

Owns every word that a person at a terminal reads, and exit codes.
Must not hold rules: each command calls the package that owns them.
Start with `main`, which maps arguments to functions.
"""

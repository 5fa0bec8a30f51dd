"""How a profile follows its driver over months, and which unknown speakers come back.

Owns which speech is eligible, pending trips, revisions and their roll-back, and the guests.
Must not know the calendar, files or the broker: a day is a number, a profile is a value.
Start with `following.promoted` for drivers and `guests.updated` for unknown speakers.
"""

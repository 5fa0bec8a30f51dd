"""Who drives this trip, and when the ECUs may be asked to move something.

Owns the trip's state table, the interlock, and the requests to the ECUs with their answers.
Must not know how voices are compared, how messages travel, or what time it is.
Start with `table.TABLE`; docs/trip.md shows it.
"""

"""The contract with the car, and the connection that carries it.

Owns every topic and payload, the JSON Schemas, encoding, decoding, and the connection.
Must not know who drives or what may move: that is decided before an event gets here.
Start with `topics.TOPICS`; docs/mqtt.md is the same table for people.
"""

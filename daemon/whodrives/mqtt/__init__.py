"""The MQTT contract with the car, and the connection to the broker.

Owns every topic and payload, the JSON Schemas, encoding, decoding, and the connection.
Must not know who drives or what may move: the engine decides that before an event gets here.
Start with `topics.TOPICS`; docs/mqtt.md is the same table for people.
"""

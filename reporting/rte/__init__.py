"""The real-time event stream over HTTP: one reader of Kafka per process, any number of clients (docs/adr/0019)."""

"""The local stack: a real Kafka broker, the ClickHouse engine and the services on one machine."""

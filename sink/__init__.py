"""The sink: exact blocks from `clicks.enriched` into ClickHouse. It owns the table (`sink/ddl/`)."""

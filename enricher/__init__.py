"""The enricher: one enriched record for each raw record, in order, on the same partition."""

"""Deliveries: files of event detail records, each row in exactly one of them; docs/adr/0021 argues why."""

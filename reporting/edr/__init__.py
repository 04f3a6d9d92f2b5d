"""Event detail records: one row per report of a click, streamed as CSV, NDJSON or Parquet, by time or by position."""

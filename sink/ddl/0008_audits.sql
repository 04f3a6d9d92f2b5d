-- Outcomes of `clickledger audit`, for whoever wants to know when the last one was.
CREATE TABLE IF NOT EXISTS audits
(
    `audited_at` DateTime64(3, 'UTC') DEFAULT now64(3) COMMENT 'when it ended',
    `stream` LowCardinality(String) COMMENT 'the stream that was current',
    `verdict` LowCardinality(String) COMMENT 'clean, not_clean, or no_verdict: not all was stored or heard of in time',
    `findings` UInt32 COMMENT 'gaps, doubles, mismatches and what else it accuses',
    `rows` UInt64 COMMENT 'rows that it counted, of all tenants',
    `in_flight` UInt64 COMMENT 'records in Kafka that were no rows yet',
    `audited_by` LowCardinality(String) COMMENT 'user and machine'
)
ENGINE = MergeTree
ORDER BY audited_at
TTL toDateTime(audited_at) + INTERVAL 400 DAY;

-- One row per raw offset. Columns: the keys of the enriched record in their order (shared/events.py), then block_at and
-- inserted_at. Projections live inside each part, so they are exactly as exact as the rows.
CREATE TABLE IF NOT EXISTS clicks
(
    `v` UInt8 COMMENT 'version of the enriched record''s contract',
    `stream` LowCardinality(String) COMMENT 'random id of the raw topic''s incarnation',
    `raw_partition` UInt16 COMMENT 'partition of clicks.raw',
    `raw_offset` UInt64 COMMENT 'offset in clicks.raw; (stream, raw_partition, raw_offset) is the row''s position' CODEC(Delta, ZSTD),
    `transaction_id` UUID COMMENT 'the id that the caller was given',
    `status` LowCardinality(String) COMMENT 'accepted, duplicate, rejected or malformed',
    `reason` LowCardinality(String) COMMENT 'why the row is not accepted; empty when it is',
    `suspect` Bool COMMENT 'a copy of this click may exist (Idempotency-Key, spool, reprocess)',
    `replay_of` String COMMENT 'stream/partition/offset of the row that was reprocessed, else empty',
    `received_at` DateTime64(3, 'UTC') COMMENT 'when the API took the click' CODEC(Delta, ZSTD),
    `clicked_at` DateTime64(3, 'UTC') COMMENT 'when the phone clicked; reports use this time' CODEC(Delta, ZSTD),
    `clicked_at_ignored` Bool COMMENT 'a clicked-at was given but was outside its bounds',
    `enriched_at` DateTime64(3, 'UTC') COMMENT 'when the enricher wrote the record' CODEC(Delta, ZSTD),
    `expires_at` DateTime64(3, 'UTC') COMMENT 'when the row may be deleted' CODEC(Delta, ZSTD),
    `tenant` LowCardinality(String) COMMENT 'whose click it is',
    `key_id` LowCardinality(String) COMMENT 'id of the API key that reported it',
    `source` LowCardinality(String) COMMENT 'api, batch, spool or reprocess',
    `node` LowCardinality(String) COMMENT 'API machine that took it',
    `catalog_version` Int64 COMMENT 'catalog version at acceptance' CODEC(Delta, ZSTD),
    `short_url` String COMMENT 'the short URL as sent' CODEC(ZSTD),
    `link` String COMMENT 'normalised key of the matched link: host/path' CODEC(ZSTD),
    `promotion_id` LowCardinality(String) COMMENT 'promotion of the link',
    `campaign_id` LowCardinality(String) COMMENT 'campaign of the promotion',
    `deployment_id` LowCardinality(String) COMMENT 'deployment of the promotion',
    `link_name` LowCardinality(String) COMMENT 'name of the link',
    `recipient` String COMMENT 'recipient the link was made for' CODEC(ZSTD),
    `long_url` String COMMENT 'where the link leads' CODEC(ZSTD),
    `sent_at` Nullable(DateTime64(3, 'UTC')) COMMENT 'when the message was sent' CODEC(ZSTD),
    `user_agent` String COMMENT 'user agent as sent, trimmed, at most 2,048 bytes' CODEC(ZSTD),
    `browser` LowCardinality(String) COMMENT 'browser family',
    `browser_version` LowCardinality(String) COMMENT 'browser version',
    `os` LowCardinality(String) COMMENT 'operating system family',
    `os_version` LowCardinality(String) COMMENT 'operating system version',
    `device` LowCardinality(String) COMMENT 'device model',
    `device_brand` LowCardinality(String) COMMENT 'device brand',
    `device_type` LowCardinality(String) COMMENT 'phone, tablet, pc, bot, other; empty when unknown',
    `resolution` LowCardinality(String) COMMENT 'WIDTHxHEIGHT where the agent prints it',
    `is_bot` Bool COMMENT 'crawler, link preview or scanner',
    `bot_reason` LowCardinality(String) COMMENT 'name of the rule that matched',
    `ip` String COMMENT 'address, after the tenant''s privacy mode' CODEC(ZSTD),
    `ip_kind` LowCardinality(String) COMMENT 'public, private, loopback, cgnat, link_local, documentation, other, invalid; empty when none',
    `country` LowCardinality(String) COMMENT 'ISO 3166-1 alpha-2, of public addresses',
    `region` LowCardinality(String) COMMENT 'region, from an optional database',
    `city` LowCardinality(String) COMMENT 'city, from an optional database',
    `asn` UInt32 COMMENT 'autonomous system number, 0 when unknown',
    `agent_rules` LowCardinality(String) COMMENT 'version of the user-agent rules',
    `bot_rules` LowCardinality(String) COMMENT 'version of the bot rules',
    `geo_rules` LowCardinality(String) COMMENT 'version of the address database',
    `click_digest` String COMMENT 'digest of the request body, suspects only: tells a repeated from a reused key',
    `raw` String COMMENT 'original bytes of records that are not accepted (base64:… when not UTF-8)' CODEC(ZSTD),
    `block_at` DateTime64(3, 'UTC') COMMENT 'time of the first row of the row''s block; names the partition' CODEC(Delta, ZSTD),
    `inserted_at` DateTime64(3, 'UTC') DEFAULT now64(3) COMMENT 'when the block was inserted' CODEC(Delta, ZSTD),
    INDEX transaction_ids transaction_id TYPE bloom_filter(0.001) GRANULARITY 1,
    INDEX received_times received_at TYPE minmax GRANULARITY 1,
    INDEX inserted_times inserted_at TYPE minmax GRANULARITY 1,
    PROJECTION positions
    (
        SELECT stream, raw_partition, status, count(), min(raw_offset), max(raw_offset), max(inserted_at)
        GROUP BY stream, raw_partition, status
    ),
    PROJECTION quarter_hours
    (
        SELECT tenant, promotion_id, status, is_bot, toStartOfInterval(clicked_at, INTERVAL 15 MINUTE, 'UTC'),
            count(), uniqExactState(recipient)
        GROUP BY tenant, promotion_id, status, is_bot, toStartOfInterval(clicked_at, INTERVAL 15 MINUTE, 'UTC')
    )
)
ENGINE = MergeTree
PARTITION BY toYYYYMMDD(block_at)
ORDER BY (tenant, promotion_id, received_at, transaction_id)
TTL toDateTime(expires_at)
SETTINGS non_replicated_deduplication_window = 100000;

-- Takes the same rows and keeps none: here the sink looks for the row that cannot be stored.
CREATE TABLE IF NOT EXISTS clicks_probe AS clicks ENGINE = Null;

-- Rows that a starting sink inserts and reads back, to see how this server reads our times.
CREATE TABLE IF NOT EXISTS clicks_readback AS clicks
ENGINE = MergeTree
ORDER BY transaction_id
TTL toDateTime(inserted_at) + INTERVAL 1 HOUR;

-- Missing raw offsets that a human accepted: the sink passes them, the audit counts them.
CREATE TABLE IF NOT EXISTS gaps
(
    `stream` LowCardinality(String) COMMENT 'stream of the missing rows',
    `raw_partition` UInt16 COMMENT 'partition of clicks.raw',
    `raw_first` UInt64 COMMENT 'first missing raw offset',
    `raw_last` UInt64 COMMENT 'last missing raw offset',
    `accepted_by` String COMMENT 'who accepted the loss',
    `reason` String COMMENT 'why',
    `accepted_at` DateTime64(3, 'UTC') DEFAULT now64(3) COMMENT 'when'
)
ENGINE = MergeTree
ORDER BY (stream, raw_partition, raw_first);

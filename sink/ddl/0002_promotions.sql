-- Names and denominators of promotions, and the settings of tenants that reports need; fed from the catalog.
-- `version` is the catalog version, so that the newest record wins whatever order copies arrive in.
CREATE TABLE IF NOT EXISTS promotions
(
    `tenant` LowCardinality(String) COMMENT 'whose promotion it is',
    `promotion_id` String COMMENT 'id of the promotion',
    `name` String COMMENT 'name of the promotion',
    `campaign_id` String COMMENT 'campaign it belongs to',
    `deployment_id` String COMMENT 'deployment it belongs to',
    `sent` Nullable(UInt64) COMMENT 'messages sent',
    `delivered` Nullable(UInt64) COMMENT 'messages delivered',
    `sent_at` Nullable(DateTime64(3, 'UTC')) COMMENT 'when they were sent',
    `is_deleted` Bool COMMENT 'the catalog has it no longer',
    `version` Int64 COMMENT 'catalog version'
)
ENGINE = ReplacingMergeTree(version)
ORDER BY (tenant, promotion_id);

CREATE TABLE IF NOT EXISTS tenants
(
    `tenant` String COMMENT 'id of the tenant',
    `zone` String COMMENT 'IANA time zone in which its days begin',
    `retention_days` UInt32 COMMENT 'days for which its clicks count and are kept',
    `privacy` LowCardinality(String) COMMENT 'store, truncate or drop addresses',
    `is_deleted` Bool COMMENT 'the catalog has it no longer',
    `version` Int64 COMMENT 'catalog version'
)
ENGINE = ReplacingMergeTree(version)
ORDER BY tenant;

-- Whether the time of the app was ignored, in both views of clicks. Else as in 0009.
CREATE OR REPLACE VIEW rte
(
    `transaction_id` UUID COMMENT 'the id that the app got with its 200',
    `clicked_at` DateTime64(3, 'UTC') COMMENT 'when the phone clicked: the time to group by',
    `received_at` DateTime64(3, 'UTC') COMMENT 'when the API took the click',
    `tenant` LowCardinality(String) COMMENT 'whose click it is',
    `short_url` String COMMENT 'the short URL as sent',
    `link` String COMMENT 'the registered link: host/path',
    `link_name` LowCardinality(String) COMMENT 'name of the link; empty when it has none',
    `promotion_id` LowCardinality(String) COMMENT 'promotion of the link',
    `campaign_id` LowCardinality(String) COMMENT 'campaign of the promotion; empty when it has none',
    `deployment_id` LowCardinality(String) COMMENT 'deployment of the promotion; empty when it has none',
    `recipient` String COMMENT 'whom the link was made for; empty when nobody',
    `long_url` String COMMENT 'where the link leads',
    `user_agent` String COMMENT 'user agent as sent; empty when none was',
    `browser` LowCardinality(String) COMMENT 'browser family; empty when unknown',
    `browser_version` LowCardinality(String) COMMENT 'its version',
    `os` LowCardinality(String) COMMENT 'operating system family; empty when unknown',
    `os_version` LowCardinality(String) COMMENT 'its version',
    `device` LowCardinality(String) COMMENT 'device model; empty when unknown',
    `device_brand` LowCardinality(String) COMMENT 'device brand; empty when unknown',
    `device_type` LowCardinality(String) COMMENT 'phone, tablet, pc, bot, other; empty without a user agent',
    `resolution` LowCardinality(String) COMMENT 'WIDTHxHEIGHT where the agent prints it, else empty',
    `is_bot` Bool COMMENT 'crawler, link preview or scanner',
    `bot_reason` LowCardinality(String) COMMENT 'the rule that said so; empty when it is no bot',
    `ip` String COMMENT 'address, after the tenant''s privacy mode',
    `ip_kind` LowCardinality(String) COMMENT 'public, private, loopback, cgnat, link_local, documentation, other, invalid; empty when none',
    `country` LowCardinality(String) COMMENT 'ISO 3166-1 alpha-2, of public addresses; else empty',
    `region` LowCardinality(String) COMMENT 'region, where a database of yours knows it',
    `city` LowCardinality(String) COMMENT 'city, likewise',
    `asn` UInt32 COMMENT 'autonomous system number, 0 when unknown',
    `inserted_at` DateTime64(3, 'UTC') COMMENT 'when the row was written',
    `clicked_at_ignored` Bool COMMENT 'a clicked-at was given but was outside its bounds: clicked_at is received_at'
)
AS
SELECT
    transaction_id, clicked_at, received_at, tenant, short_url, link, link_name, promotion_id, campaign_id,
    deployment_id, recipient, long_url, user_agent, browser, browser_version, os, os_version, device, device_brand,
    device_type, resolution, is_bot, bot_reason, ip, ip_kind, country, region, city, asn, inserted_at,
    clicked_at_ignored
FROM clicks
WHERE status = 'accepted';

CREATE OR REPLACE VIEW edr
(
    `transaction_id` UUID COMMENT 'the id that the app got with its 200',
    `status` LowCardinality(String) COMMENT 'accepted, duplicate, rejected or malformed',
    `reason` String COMMENT 'why it does not count; empty when it does',
    `clicked_at` DateTime64(3, 'UTC') COMMENT 'when the phone clicked: the time to group by',
    `received_at` DateTime64(3, 'UTC') COMMENT 'when the API took the click',
    `inserted_at` DateTime64(3, 'UTC') COMMENT 'when the row was written',
    `tenant` LowCardinality(String) COMMENT 'whose click it is',
    `source` LowCardinality(String) COMMENT 'api, batch, spool or reprocess',
    `short_url` String COMMENT 'the short URL as sent',
    `link` String COMMENT 'the registered link: host/path',
    `link_name` LowCardinality(String) COMMENT 'name of the link; empty when it has none',
    `promotion_id` LowCardinality(String) COMMENT 'promotion of the link',
    `promotion` String COMMENT 'name of the promotion; empty when it is unknown',
    `campaign_id` LowCardinality(String) COMMENT 'campaign of the promotion; empty when it has none',
    `deployment_id` LowCardinality(String) COMMENT 'deployment of the promotion; empty when it has none',
    `recipient` String COMMENT 'whom the link was made for; empty when nobody',
    `long_url` String COMMENT 'where the link leads',
    `sent_at` Nullable(DateTime64(3, 'UTC')) COMMENT 'when the message was sent',
    `user_agent` String COMMENT 'user agent as sent; empty when none was',
    `browser` LowCardinality(String) COMMENT 'browser family; empty when unknown',
    `browser_version` LowCardinality(String) COMMENT 'its version',
    `os` LowCardinality(String) COMMENT 'operating system family; empty when unknown',
    `os_version` LowCardinality(String) COMMENT 'its version',
    `device` LowCardinality(String) COMMENT 'device model; empty when unknown',
    `device_brand` LowCardinality(String) COMMENT 'device brand; empty when unknown',
    `device_type` LowCardinality(String) COMMENT 'phone, tablet, pc, bot, other; empty without a user agent',
    `resolution` LowCardinality(String) COMMENT 'WIDTHxHEIGHT where the agent prints it, else empty',
    `is_bot` Bool COMMENT 'crawler, link preview or scanner',
    `bot_reason` LowCardinality(String) COMMENT 'the rule that said so; empty when it is no bot',
    `ip` String COMMENT 'address, after the tenant''s privacy mode',
    `ip_kind` LowCardinality(String) COMMENT 'public, private, loopback, cgnat, link_local, documentation, other, invalid; empty when none',
    `country` LowCardinality(String) COMMENT 'ISO 3166-1 alpha-2, of public addresses; else empty',
    `region` LowCardinality(String) COMMENT 'region, where a database of yours knows it',
    `city` LowCardinality(String) COMMENT 'city, likewise',
    `asn` UInt32 COMMENT 'autonomous system number, 0 when unknown',
    `stream` LowCardinality(String) COMMENT 'with the next two columns, where the record stands in Kafka',
    `raw_partition` UInt16 COMMENT 'partition of clicks.raw',
    `raw_offset` UInt64 COMMENT 'offset in clicks.raw',
    `clicked_at_ignored` Bool COMMENT 'a clicked-at was given but was outside its bounds: clicked_at is received_at'
)
AS
SELECT
    c.transaction_id AS transaction_id, c.status AS status, c.reason AS reason, c.clicked_at AS clicked_at,
    c.received_at AS received_at, c.inserted_at AS inserted_at, c.tenant AS tenant, c.source AS source,
    c.short_url AS short_url, c.link AS link, c.link_name AS link_name, c.promotion_id AS promotion_id,
    ifNull(p.name, '') AS promotion, c.campaign_id AS campaign_id, c.deployment_id AS deployment_id,
    c.recipient AS recipient, c.long_url AS long_url, c.sent_at AS sent_at, c.user_agent AS user_agent,
    c.browser AS browser, c.browser_version AS browser_version, c.os AS os, c.os_version AS os_version,
    c.device AS device, c.device_brand AS device_brand, c.device_type AS device_type, c.resolution AS resolution,
    c.is_bot AS is_bot, c.bot_reason AS bot_reason, c.ip AS ip, c.ip_kind AS ip_kind, c.country AS country,
    c.region AS region, c.city AS city, c.asn AS asn, c.stream AS stream, c.raw_partition AS raw_partition,
    c.raw_offset AS raw_offset, c.clicked_at_ignored AS clicked_at_ignored
FROM clicks AS c
LEFT JOIN (SELECT tenant, promotion_id, name FROM promotions FINAL) AS p USING (tenant, promotion_id);

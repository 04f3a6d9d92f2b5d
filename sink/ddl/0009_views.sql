-- The stable SQL interface, with a comment on every column. What is here stays: columns are only added, at the end.
-- A missing dimension is '' in `clicks`, `rte` and `edr`, and `Others` in `ctr_daily` and `clicks_by_dimension`.
-- The numbers have one meaning everywhere: clicks = accepted without bots, clicks_all = accepted,
-- bots included. `ctr_daily` is in 0011; `rte` and `edr` have one more column in 0012.

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
    `device_type` LowCardinality(String) COMMENT 'phone, tablet, pc, bot, other; empty when unknown',
    `resolution` LowCardinality(String) COMMENT 'WIDTHxHEIGHT where the agent prints it, else empty',
    `is_bot` Bool COMMENT 'crawler, link preview or scanner',
    `bot_reason` LowCardinality(String) COMMENT 'the rule that said so; empty when it is no bot',
    `ip` String COMMENT 'address, after the tenant''s privacy mode',
    `ip_kind` LowCardinality(String) COMMENT 'public, private, loopback, cgnat, link_local, documentation, other, invalid; empty when none',
    `country` LowCardinality(String) COMMENT 'ISO 3166-1 alpha-2, of public addresses; else empty',
    `region` LowCardinality(String) COMMENT 'region, where a database of yours knows it',
    `city` LowCardinality(String) COMMENT 'city, likewise',
    `asn` UInt32 COMMENT 'autonomous system number, 0 when unknown',
    `inserted_at` DateTime64(3, 'UTC') COMMENT 'when the row was written'
)
AS
SELECT
    transaction_id, clicked_at, received_at, tenant, short_url, link, link_name, promotion_id, campaign_id,
    deployment_id, recipient, long_url, user_agent, browser, browser_version, os, os_version, device, device_brand,
    device_type, resolution, is_bot, bot_reason, ip, ip_kind, country, region, city, asn, inserted_at
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
    `device_type` LowCardinality(String) COMMENT 'phone, tablet, pc, bot, other; empty when unknown',
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
    `raw_offset` UInt64 COMMENT 'offset in clicks.raw'
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
    c.raw_offset AS raw_offset
FROM clicks AS c
LEFT JOIN (SELECT tenant, promotion_id, name FROM promotions FINAL) AS p USING (tenant, promotion_id);

-- Clicks per promotion, day and value of one dimension: one of them must be chosen, since each click is in all.
CREATE OR REPLACE VIEW clicks_by_dimension
(
    `tenant` String COMMENT 'whose clicks',
    `day` Date COMMENT 'day of clicked_at in the tenant''s zone',
    `promotion_id` String COMMENT 'id of the promotion, or Others',
    `dimension` String COMMENT 'what is counted by: campaign_id, deployment_id, link_name, browser, os, device, device_brand, device_type, resolution, country, bot_reason, source',
    `value` String COMMENT 'its value, or Others',
    `clicks` UInt64 COMMENT 'accepted clicks of people: what counts',
    `clicks_all` UInt64 COMMENT 'accepted clicks, bots included',
    `bot_clicks` UInt64 COMMENT 'accepted clicks of bots',
    `duplicate_clicks` UInt64 COMMENT 'further copies of clicks; in no other number',
    `unique_recipients` UInt64 COMMENT 'different recipients, else links, among clicks'
)
AS
SELECT
    c.tenant AS tenant,
    toDate(substring(toString(c.clicked_at, if(ifNull(t.zone, '') = '', 'UTC', assumeNotNull(t.zone))), 1, 10)) AS day,
    if(c.promotion_id = '', 'Others', c.promotion_id) AS promotion_id,
    pair.1 AS dimension,
    if(pair.2 = '', 'Others', pair.2) AS value,
    countIf(c.status = 'accepted' AND NOT c.is_bot) AS clicks,
    countIf(c.status = 'accepted') AS clicks_all,
    countIf(c.status = 'accepted' AND c.is_bot) AS bot_clicks,
    countIf(c.status = 'duplicate') AS duplicate_clicks,
    uniqExactIf(c.recipient, if(empty(c.recipient), c.link, ''), c.status = 'accepted' AND NOT c.is_bot)
        AS unique_recipients
FROM clicks AS c
LEFT JOIN (SELECT tenant, zone FROM tenants FINAL) AS t ON t.tenant = c.tenant
ARRAY JOIN
[
    ('campaign_id', toString(c.campaign_id)),
    ('deployment_id', toString(c.deployment_id)),
    ('link_name', toString(c.link_name)),
    ('browser', toString(c.browser)),
    ('os', toString(c.os)),
    ('device', toString(c.device)),
    ('device_brand', toString(c.device_brand)),
    ('device_type', toString(c.device_type)),
    ('resolution', toString(c.resolution)),
    ('country', toString(c.country)),
    ('bot_reason', toString(c.bot_reason)),
    ('source', toString(c.source))
] AS pair
WHERE c.status IN ('accepted', 'duplicate')
GROUP BY tenant, day, promotion_id, dimension, value;

-- What arrived and does not count: clicks that must not, and records that are none.
CREATE OR REPLACE VIEW rejected
(
    `received_at` DateTime64(3, 'UTC') COMMENT 'when the API took the click',
    `tenant` LowCardinality(String) COMMENT 'whose it is; empty when the record does not say',
    `status` LowCardinality(String) COMMENT 'rejected or malformed',
    `reason` String COMMENT 'why it does not count',
    `transaction_id` UUID COMMENT 'the id that the app got; made from the position where a record has none',
    `key_id` LowCardinality(String) COMMENT 'API key that reported it',
    `source` LowCardinality(String) COMMENT 'api, batch, spool or reprocess',
    `node` LowCardinality(String) COMMENT 'API machine that took it',
    `short_url` String COMMENT 'the short URL as sent',
    `clicked_at` DateTime64(3, 'UTC') COMMENT 'when the phone clicked: the time to group by',
    `stream` LowCardinality(String) COMMENT 'with the next two columns, where the record stands in Kafka',
    `raw_partition` UInt16 COMMENT 'partition of clicks.raw',
    `raw_offset` UInt64 COMMENT 'offset in clicks.raw',
    `replay_of` String COMMENT 'stream/partition/offset of the row that this one repeats; empty for an original',
    `raw` String COMMENT 'what was sent, as bytes (base64:… when not UTF-8)',
    `inserted_at` DateTime64(3, 'UTC') COMMENT 'when the row was written'
)
AS
SELECT
    received_at, tenant, status, reason, transaction_id, key_id, source, node, short_url, clicked_at, stream,
    raw_partition, raw_offset, replay_of, raw, inserted_at
FROM clicks
WHERE status IN ('rejected', 'malformed');

-- How far the table was behind in the last hour.
CREATE OR REPLACE VIEW freshness
(
    `tenant` String COMMENT 'whose rows',
    `source` LowCardinality(String) COMMENT 'api, batch, spool or reprocess; the last two are late by design',
    `rows` UInt64 COMMENT 'rows written in the last hour',
    `received_last` DateTime64(3, 'UTC') COMMENT 'newest received_at of them',
    `inserted_last` DateTime64(3, 'UTC') COMMENT 'newest inserted_at of them',
    `delay_ms_p50` UInt64 COMMENT 'ms from received_at to inserted_at, half of the rows at most',
    `delay_ms_p99` UInt64 COMMENT 'the same, 99 in 100 at most',
    `delay_ms_max` UInt64 COMMENT 'the same, all at most'
)
AS
SELECT
    tenant, source, count() AS rows, max(received_at) AS received_last, max(inserted_at) AS inserted_last,
    quantileExact(0.5)(delay_ms) AS delay_ms_p50, quantileExact(0.99)(delay_ms) AS delay_ms_p99,
    max(delay_ms) AS delay_ms_max
FROM
(
    SELECT
        tenant, source, received_at, inserted_at,
        toUInt64(greatest(0, dateDiff('millisecond', received_at, inserted_at))) AS delay_ms
    FROM clicks
    WHERE inserted_at >= now64(3, 'UTC') - INTERVAL 1 HOUR
)
GROUP BY tenant, source;

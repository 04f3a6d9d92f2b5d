-- Finds clicks by the time of the click; `received_times` finds them by the time of arrival.
ALTER TABLE clicks ADD INDEX IF NOT EXISTS clicked_times clicked_at TYPE minmax GRANULARITY 1;

-- The position is part of the record: it names the row for ever. Columns are only ever added, at the end.
CREATE OR REPLACE VIEW edr AS
SELECT
    c.transaction_id AS transaction_id, c.status AS status, c.reason AS reason,
    c.clicked_at AS clicked_at, c.received_at AS received_at, c.inserted_at AS inserted_at,
    c.tenant AS tenant, c.source AS source, c.short_url AS short_url, c.link AS link, c.link_name AS link_name,
    c.promotion_id AS promotion_id, p.name AS promotion, c.campaign_id AS campaign_id,
    c.deployment_id AS deployment_id, c.recipient AS recipient, c.long_url AS long_url, c.sent_at AS sent_at,
    c.user_agent AS user_agent, c.browser AS browser, c.browser_version AS browser_version, c.os AS os,
    c.os_version AS os_version, c.device AS device, c.device_brand AS device_brand, c.device_type AS device_type,
    c.resolution AS resolution, c.is_bot AS is_bot, c.bot_reason AS bot_reason, c.ip AS ip, c.ip_kind AS ip_kind,
    c.country AS country, c.region AS region, c.city AS city, c.asn AS asn, c.stream AS stream,
    c.raw_partition AS raw_partition, c.raw_offset AS raw_offset
FROM clicks AS c
LEFT JOIN (SELECT tenant, promotion_id, name FROM promotions FINAL) AS p USING (tenant, promotion_id);

-- The stable SQL interface. A missing dimension is empty in `edr` and `Others` in `ctr_daily`.
CREATE OR REPLACE VIEW rte AS
SELECT
    transaction_id, clicked_at, received_at, tenant, short_url, link, link_name, promotion_id, campaign_id, deployment_id,
    recipient, long_url, user_agent, browser, browser_version, os, os_version, device, device_brand, device_type,
    resolution, is_bot, bot_reason, ip, ip_kind, country, region, city, asn, inserted_at
FROM clicks
WHERE status = 'accepted';

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
    c.country AS country, c.region AS region, c.city AS city, c.asn AS asn
FROM clicks AS c
LEFT JOIN (SELECT tenant, promotion_id, name FROM promotions FINAL) AS p USING (tenant, promotion_id);

-- Accepted clicks per promotion and day of the tenant's zone; bots apart. Answered from the projection quarter_hours:
-- a quarter of an hour is the least common part of all zones' days.
CREATE OR REPLACE VIEW ctr_daily AS
SELECT
    q.tenant AS tenant,
    toDate(toTimeZone(q.quarter, if(t.zone = '', 'UTC', t.zone))) AS day,
    q.promotion_id AS promotion_id,
    if(any(p.name) = '', 'Others', any(p.name)) AS promotion,
    if(any(p.campaign_id) = '', 'Others', any(p.campaign_id)) AS campaign_id,
    sumIf(q.clicks, NOT q.is_bot) AS clicks,
    uniqExactMergeIf(q.recipients, NOT q.is_bot) AS recipients,
    sumIf(q.clicks, q.is_bot) AS bot_clicks,
    any(p.sent) AS sent,
    any(p.delivered) AS delivered,
    if(any(p.delivered) > 0, round(100 * clicks / any(p.delivered), 4), NULL) AS ctr_percent
FROM
(
    SELECT
        tenant, promotion_id, is_bot, toStartOfInterval(clicked_at, INTERVAL 15 MINUTE, 'UTC') AS quarter,
        count() AS clicks, uniqExactState(recipient) AS recipients
    FROM clicks
    WHERE status = 'accepted'
    GROUP BY tenant, promotion_id, is_bot, quarter
) AS q
LEFT JOIN (SELECT tenant, zone FROM tenants FINAL) AS t ON t.tenant = q.tenant
LEFT JOIN (SELECT tenant, promotion_id, name, campaign_id, sent, delivered FROM promotions FINAL) AS p
    ON p.tenant = q.tenant AND p.promotion_id = q.promotion_id
GROUP BY tenant, day, promotion_id
SETTINGS allow_nonconst_timezone_arguments = 1;

-- What a deleted promotion had sent and delivered is in no number; its clicks and its name stay. Else as in 0007.
CREATE OR REPLACE VIEW ctr_daily
(
    `tenant` String COMMENT 'whose clicks',
    `day` Date COMMENT 'day of clicked_at in the tenant''s zone',
    `promotion_id` String COMMENT 'id of the promotion, or Others',
    `promotion` String COMMENT 'its name, or Others',
    `campaign_id` String COMMENT 'the promotion''s campaign now, or Others',
    `clicks` UInt64 COMMENT 'accepted clicks of people: what counts',
    `clicks_all` UInt64 COMMENT 'accepted clicks, bots included',
    `bot_clicks` UInt64 COMMENT 'accepted clicks of bots',
    `duplicate_clicks` UInt64 COMMENT 'further copies of clicks; in no other number',
    `unique_recipients` UInt64 COMMENT 'different recipients, else links, among clicks',
    `sent` Nullable(UInt64) COMMENT 'messages sent, of the whole promotion',
    `delivered` Nullable(UInt64) COMMENT 'messages delivered, of the whole promotion',
    `ctr_sent` Nullable(Float64) COMMENT 'clicks / sent',
    `ctr_delivered` Nullable(Float64) COMMENT 'clicks / delivered',
    `unique_ctr_sent` Nullable(Float64) COMMENT 'unique_recipients / sent',
    `unique_ctr_delivered` Nullable(Float64) COMMENT 'unique_recipients / delivered'
)
AS SELECT
    q.tenant AS tenant,
    toDate(substring(toString(q.quarter, if(ifNull(t.zone, '') = '', 'UTC', assumeNotNull(t.zone))), 1, 10)) AS day,
    if(empty(q.promotion), 'Others', q.promotion) AS promotion_id,
    if(any(ifNull(p.name, '')) = '', 'Others', any(ifNull(p.name, ''))) AS promotion,
    if(any(ifNull(p.campaign_id, '')) = '', 'Others', any(ifNull(p.campaign_id, ''))) AS campaign_id,
    sumIf(q.rows, q.status = 'accepted' AND NOT q.is_bot) AS clicks,
    sumIf(q.rows, q.status = 'accepted') AS clicks_all,
    sumIf(q.rows, q.status = 'accepted' AND q.is_bot) AS bot_clicks,
    sumIf(q.rows, q.status = 'duplicate') AS duplicate_clicks,
    uniqExactMergeIf(q.who, q.status = 'accepted' AND NOT q.is_bot) AS unique_recipients,
    any(p.sent) AS sent,
    any(p.delivered) AS delivered,
    if(sent > 0, clicks / sent, NULL) AS ctr_sent,
    if(delivered > 0, clicks / delivered, NULL) AS ctr_delivered,
    if(sent > 0, unique_recipients / sent, NULL) AS unique_ctr_sent,
    if(delivered > 0, unique_recipients / delivered, NULL) AS unique_ctr_delivered
FROM
(
    SELECT
        tenant, promotion_id AS promotion, status, is_bot,
        toStartOfInterval(clicked_at, INTERVAL 15 MINUTE, 'UTC') AS quarter,
        count() AS rows, uniqExactState(recipient, if(empty(recipient), link, '')) AS who
    FROM clicks
    WHERE status IN ('accepted', 'duplicate')
    GROUP BY tenant, promotion_id, status, is_bot, quarter
) AS q
LEFT JOIN (SELECT tenant, zone FROM tenants FINAL) AS t ON t.tenant = q.tenant
LEFT JOIN
(
    SELECT tenant, promotion_id, name, campaign_id, if(is_deleted, NULL, sent) AS sent, if(is_deleted, NULL, delivered) AS delivered
    FROM promotions FINAL
) AS p
    ON p.tenant = q.tenant AND p.promotion_id = q.promotion
GROUP BY tenant, day, promotion_id;

-- Finds the rows of a range of raw offsets without reading the whole table.
ALTER TABLE clicks ADD INDEX IF NOT EXISTS raw_offsets raw_offset TYPE minmax GRANULARITY 1;

-- A row lives for a week after its insert, however late that came: sealing needs minutes of it. Parts that are there
-- already are not rewritten; they are judged by this rule when their time comes.
ALTER TABLE clicks MODIFY TTL greatest(toDateTime(expires_at), toDateTime(inserted_at) + INTERVAL 7 DAY)
SETTINGS materialize_ttl_after_modify = 0;

-- Verified ranges of raw offsets; see shared/seals.py. The highest version of a range counts.
CREATE TABLE IF NOT EXISTS seals
(
    `stream` LowCardinality(String) COMMENT 'stream of the rows',
    `raw_partition` UInt16 COMMENT 'partition of clicks.raw',
    `raw_first` UInt64 COMMENT 'first raw offset of the range: the last seal''s end + 1',
    `raw_last` UInt64 COMMENT 'last raw offset of the range',
    `version` UInt32 COMMENT '1, and one more for each erasure',
    `rows` UInt64 COMMENT 'rows of the range: its size less the accepted gaps',
    `gaps` Array(Tuple(UInt64, UInt64)) COMMENT 'accepted gaps inside the range, first and last raw offset',
    `columns_version` UInt16 COMMENT 'which columns are hashed',
    `digest` UInt256 COMMENT 'sum of the rows'' hashes over all columns',
    `kept_digest` UInt256 COMMENT 'the same without the personal columns',
    `expires_first` DateTime('UTC') COMMENT 'when the first of the rows may be deleted',
    `reason` String COMMENT 'empty, or why there is a further version',
    `sealed_by` String COMMENT 'who wrote it',
    `sealed_at` DateTime64(3, 'UTC') DEFAULT now64(3) COMMENT 'when',
    PROJECTION lasts
    (
        SELECT stream, raw_partition, count(), max(raw_last)
        GROUP BY stream, raw_partition
    )
)
ENGINE = MergeTree
ORDER BY (stream, raw_partition, raw_first, version)
SETTINGS non_replicated_deduplication_window = 100000;

-- Announcements of sealers that are about to read a range: an erasure waits for them.
CREATE TABLE IF NOT EXISTS seals_announced
(
    `stream` LowCardinality(String) COMMENT 'stream of the range',
    `raw_partition` UInt16 COMMENT 'partition of clicks.raw',
    `raw_first` UInt64 COMMENT 'first raw offset of the range',
    `announced_by` String COMMENT 'who',
    `announced_at` DateTime64(3, 'UTC') DEFAULT now64(3) COMMENT 'when'
)
ENGINE = MergeTree
ORDER BY announced_at
TTL toDateTime(announced_at) + INTERVAL 1 DAY;

-- Erasures of recipients. They name rows, never the recipient; the newest record of an id counts.
CREATE TABLE IF NOT EXISTS erasures
(
    `id` UUID COMMENT 'id of the erasure; stands in the reason of the seals that it changed',
    `step` UInt8 COMMENT '1 begun, 2 seals verified, 3 done, 4 given up before anything was changed',
    `tenant` LowCardinality(String) COMMENT 'whose recipient it was',
    `rows` UInt64 COMMENT 'rows that were overwritten',
    `positions` Array(Tuple(String, UInt16, UInt64)) COMMENT 'stream, partition and raw offset of each; empty at the end',
    `seals` Array(Tuple(String, UInt16, UInt64, UInt32, UInt256)) COMMENT 'stream, partition, first, version and digest of the other rows of each seal to renew; empty at the end',
    `reason` String COMMENT 'why, in the words of who asked',
    `erased_by` String COMMENT 'who asked',
    `recorded_at` DateTime64(3, 'UTC') DEFAULT now64(3) COMMENT 'when'
)
ENGINE = ReplacingMergeTree(step)
ORDER BY id;

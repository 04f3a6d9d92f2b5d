-- A sealer says when it is over without a seal, so that an erasure need not wait for it.
ALTER TABLE seals_announced ADD COLUMN IF NOT EXISTS id UUID COMMENT 'of the announcement' FIRST;
ALTER TABLE seals_announced ADD COLUMN IF NOT EXISTS is_over Bool COMMENT 'nothing was sealed and nothing will be';

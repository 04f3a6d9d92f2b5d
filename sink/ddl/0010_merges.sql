-- A day that got no block for six hours becomes one part: reports and audits then read the fewest rows beside those that they
-- look for. Servers bound such a merge by the free space of the disk, newer ones also by max_bytes_to_merge_at_max_space_in_pool.
ALTER TABLE clicks MODIFY SETTING min_age_to_force_merge_seconds = 21600, min_age_to_force_merge_on_partition_only = 1;

"""Sources, subsets, partitions."""

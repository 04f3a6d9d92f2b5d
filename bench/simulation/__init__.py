"""A queueing model of the pipeline: what more machines do, what a lost one costs, and how many are needed."""

"""Corpora: many videos labelled by many processes, on one machine, as shards of a batch system, or on a Ray cluster.

`plan` splits the work into units, `unit` does one of them in any process, `folder` stores results, and `pool` and
`cluster` distribute units to workers. All ways run the same plan and write the same files.
"""

"""The log of a home, `production_pipeline.log`: JSON lines of all its runs, for `grep` and for collectors."""

"""The monitor: a run's figures on a terminal, from its record or from the endpoint of its metrics."""

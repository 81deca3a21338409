"""What is measured, how, and the last figures: one module a bench, each with `measure() -> list[Metric]`."""

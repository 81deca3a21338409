"""The doctor: what a run needs of its surroundings, looked at; each thing fine, or with its remedy."""

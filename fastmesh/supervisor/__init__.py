"""The visible stack: what starts in which order, signals, reloads, drain."""

"""What others may look at: logs, Prometheus metrics, latency histograms."""

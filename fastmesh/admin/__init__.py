"""The admin API: health, metrics, what is configured and what happens, on trio and h11."""

"""Load and latency, measured from outside: imports neither package."""

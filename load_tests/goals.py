"""What `make bench` holds this project's server to, by the names of its rows; a missed goal is shown, no failure."""

NESTED, FLAT, BINARY = "glassblock-json", "glassblock-flat", "glassblock-binary"

P50_OVER_RAW = {BINARY: 1.15, NESTED: 1.6, FLAT: 1.6}  # S1: at most so many times the raw run's
OF_CEILING = {  # tokens/s: at least this share of raw runs
    BINARY: {"S2": 0.80, "S3": 0.80, "S4": 0.80},
    NESTED: {"S2": 0.60, "S3": 0.60},
    FLAT: {"S2": 0.60, "S3": 0.60},
}
CODECS = {  # at most this share of what codecs.py holds each stage against
    BINARY: {"decode": 0.01, "encode": 0.01},
    NESTED: {"decode": 0.12, "encode": 0.06},
    FLAT: {"decode": 0.12, "encode": 0.06},
}

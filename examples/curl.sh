#!/usr/bin/env bash
# The forward route with nothing but curl 7.82 or later: bash examples/curl.sh [URL]
set -euo pipefail
url=${1:-http://127.0.0.1:8000}

# What is served, and what can be asked of it.
curl -sS --fail-with-body "$url/v1/models"
echo

# The whole block on two sentences of different lengths: one [position][hidden] list a sentence.
curl -sS --fail-with-body --json '{"text": ["The cat sat.", "It slept."]}' "$url/v1/models/minilm/forward"
echo

# One layer's attention weights, [head][query][key].
curl -sS --fail-with-body --json '{"text": "It slept.", "outputs": ["layers.0.attention_weights"]}' \
  "$url/v1/models/minilm/forward"
echo

# Every layer's residual stream between attention and feed-forward.
curl -sS --fail-with-body --json '{"text": "It slept.", "outputs": ["resid_mid"]}' "$url/v1/models/minilm/forward"
echo

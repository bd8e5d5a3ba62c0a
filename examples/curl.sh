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

# The same block by the Open Inference Protocol: flat numbers, row-major, with their shape.
zeros=$(printf '0,%.0s' $(seq 767))0
curl -sS --fail-with-body "$url/v2/models/minilm.probes/infer" -d '{"id": "1",
  "inputs": [{"name": "hidden_states", "shape": [1, 2, 384], "datatype": "FP32", "data": ['"$zeros"']}],
  "outputs": [{"name": "layers.0.attention_weights"}]}'
echo

# A body of float32 alone: one sequence of two positions. The answer is JSON, then bytes.
head -c 3072 /dev/zero | curl -sS --fail-with-body --data-binary @- -H 'Inference-Header-Content-Length: 0' \
  "$url/v2/models/minilm/infer" | { head -c 154; cat > /dev/null; }
echo

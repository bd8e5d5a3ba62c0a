"""Which word does 'it' mean? Reads one attention head of a served MiniLM: `python examples/attention.py [URL]`."""

import sys

from client import Client

SENTENCE = "The cat sat on the mat because it was tired."


def main(url: str = "http://127.0.0.1:8000") -> None:
    """Prints the tokens that 'it' attends to in head 11 of layer 5, strongest first."""
    with Client(url, "minilm") as model:
        _, cache = model.run_with_cache(SENTENCE, ["layers.5.attention_weights"])
        tokens = model.tokens[0]
    weights = cache["layers.5.attention_weights"][0][11, tokens.index("it")]
    for weight, token in sorted(zip(weights, tokens, strict=True), reverse=True)[:3]:
        print(f"it -> {token:6} {weight:.3f}")


if __name__ == "__main__":
    main(*sys.argv[1:])

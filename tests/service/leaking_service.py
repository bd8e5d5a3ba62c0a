"""The service with a leak, `python -m tests.service.leaking_service`: it keeps the body of every request."""

from typing import Any

from service import __main__, pipeline

KEPT: list[bytes] = []


def main() -> None:
    """`python -m service` with its leak."""
    answer = vars(pipeline)["_answer"]

    def answer_and_keep(model: Any, body: bytes, *arguments: Any, **named: Any) -> Any:
        KEPT.append(bytes(bytearray(body)))  # a copy of its own, whatever the server does with the body
        return answer(model, body, *arguments, **named)

    vars(pipeline)["_answer"] = answer_and_keep
    __main__.main()


if __name__ == "__main__":
    main()

"""Batches of chats at the proxy."""

from typing import Final

from tests.wrong_versions.rule import Rule, rule

_REQUESTS: Final = "partitiond/proxy/request/requests.py"
_ROUTES: Final = "partitiond/proxy/request/routes.py"

BATCHES: Final[tuple[Rule, ...]] = (
    rule(
        "Each conversation of a batch is a sequence, with all that the batch says once.",
        "tests/proxy/test_request_fields.py",
        "tests/proxy/test_charges.py",
        "tests/proxy/test_app.py",
        wrong=(
            (
                _REQUESTS,
                "Size(conversations, size, 0, limit, has_choices=True)",
                "Size(1, size, 0, limit, has_choices=True)",
            ),
            (
                _REQUESTS,
                "Size(conversations, size, 0, limit, has_choices=True)",
                "Size(conversations, size, 0, limit)",
            ),
            (
                _REQUESTS,
                "Size(conversations, size, 0, limit, has_choices=True)",
                "Size(conversations, size, 0, has_choices=True)",
            ),
            (
                _REQUESTS,
                "_bytes_of(body.messages) + conversations * _size_beside_messages(body)",
                "_bytes_of(body.messages) + _size_beside_messages(body)",
            ),
            (
                _REQUESTS,
                "_bytes_of(body.messages) + conversations * _size_beside_messages(body)",
                "conversations * (_bytes_of(body.messages) + _size_beside_messages(body))",
            ),
            (
                _REQUESTS,
                "    if conversations > options.max_prompts:",
                "    if conversations > options.max_sequences:",
            ),
            (
                _REQUESTS,
                "    if conversations > options.max_prompts:",
                "    if conversations >= options.max_prompts:",
            ),
            (
                _REQUESTS,
                "conversations = max(1, len(_conversations.decode(body.messages)))",
                "conversations = len(_conversations.decode(body.messages))",
            ),
            (_REQUESTS, "Decoder(list[list[AnyObject]])", "Decoder(list[list[Any]])"),
        ),
    ),
    rule(
        "A batch has no streams, and a limit of output for each conversation.",
        "tests/proxy/test_request_fields.py",
        "tests/proxy/test_output_limits.py",
        wrong=(
            (
                _ROUTES,
                'field="max_completion_tokens", streams=False)',
                'field="max_completion_tokens")',
            ),
            (_ROUTES, 'output_field="max_completion_tokens", streams=False)', "streams=False)"),
            (
                _ROUTES,
                'output_field="max_completion_tokens", streams=False)',
                'output_field="max_tokens", streams=False)',
            ),
        ),
    ),
)

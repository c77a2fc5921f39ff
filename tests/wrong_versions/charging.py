"""What keys pay, what is estimated, and what a request may ask for."""

from typing import Final

from tests.wrong_versions.rule import Rule, rule

_RULE: Final = "partitiond/core/keys/charging.py"
_TOLD: Final = "partitiond/proxy/request/reported_usage.py"
_EVENTS: Final = "partitiond/proxy/engine/events.py"
_DIALECTS: Final = "partitiond/proxy/request/dialects.py"
_ATTEMPT: Final = "partitiond/proxy/edge/attempt.py"
_EXCHANGE: Final = "partitiond/proxy/edge/exchange.py"
_SERVING: Final = "partitiond/proxy/edge/serving.py"
_RECORD: Final = "partitiond/proxy/telemetry/record.py"
_ESTIMATES: Final = "partitiond/proxy/dispatch/estimates.py"
_ADMISSION: Final = "partitiond/core/dispatch/admission.py"
_REQUESTS: Final = "partitiond/proxy/request/requests.py"
_ROUTES: Final = "partitiond/proxy/request/routes.py"
_BUDGETS: Final = "partitiond/proxy/keys/budgets_file.py"

CHARGING: Final[tuple[Rule, ...]] = (
    rule(
        "What a request costs goes by how it ended.",
        "tests/core/keys/test_charging.py",
        wrong=(
            (
                _RULE,
                "max(_output_seen(seen, estimate), estimate.output_limit)",
                "min(_output_seen(seen, estimate), estimate.output_limit)",
            ),
            (_RULE, "output, untold=True)", "output)"),
            (_RULE, "if prompt is None:", "if not prompt:"),
            (
                _RULE,
                "if ending is Ending.LEFT or ending is Ending.DIED_MIDWAY:",
                "if ending is Ending.LEFT:",
            ),
            (_RULE, "return Ending.LEFT if at_work else Ending.REFUSED", "return Ending.REFUSED"),
            (
                _RULE,
                "return Ending.LEFT if at_work else Ending.DIED_EARLY",
                "return Ending.DIED_EARLY",
            ),
            (_RULE, "return Charge(prompt, _output_seen(seen, estimate))", "return Charge(0, 0)"),
            (_RULE, "- firsts) * estimate.stream_interval", "- firsts)"),
            (_RULE, "min(seen.output_events, estimate.sequences)", "0"),
            (_RULE, "min(seen.output_events, estimate.sequences)", "min(seen.output_events, 1)"),
        ),
    ),
    rule(
        "On every way out a key is charged, and once.",
        "tests/proxy/test_charges.py",
        wrong=(
            (
                _ATTEMPT,
                "        if not self._over:\n            self._note_progress()\n"
                "        self._over = True\n        if self._connecting",
                "        self._over = True\n        if self._connecting",
            ),
            (_ATTEMPT, "record.at_work = self.sent", "record.at_work = False"),
            (
                _ATTEMPT,
                "ObservedOutput(scanner.output_events + fast,",
                "ObservedOutput(scanner.output_events,",
            ),
            (_ATTEMPT, "scanner.prompt_tokens)", "None)"),
            (
                _EXCHANGE,
                "settle(receipt, float(self.record.charge.tokens))",
                "settle(receipt, 0.0)",
            ),
            (
                _SERVING,
                "slots.settle(flight, float(record.charge.tokens))",
                "slots.settle(flight, 0.0)",
            ),
            (
                _SERVING,
                "            self.record.at_work = False\n        # Before its place",
                "            pass\n        # Before its place",
            ),
            (
                _SERVING,
                "self.record.at_work = False  # nobody pays",
                "self.record.at_work = True  # nobody pays",
            ),
            (_SERVING, "streamed = record.ttft_seconds is not None", "streamed = False"),
            (
                _SERVING,
                "if flight.cost.sequences:  # counting tokens is free",
                "if flight.attempts:",
            ),
            (
                _EXCHANGE,
                "self._caller.key_id, cost.kv_tokens, self.model.slots",
                "self._caller.key_id, 0, self.model.slots",
            ),
            (
                _RECORD,
                "use.output_tokens += self.charge.output_tokens",
                "use.output_tokens += output_tokens",
            ),
        ),
    ),
    rule(
        "Usage is what the answer's own top level tells.",
        "tests/proxy/request/test_reported_usage.py",
        wrong=(
            (_TOLD, "            prompt = self.total_tokens\n", "            prompt = 0\n"),
            (_TOLD, "if usage is None and answer.message is not None:", "if answer.message:"),
            (
                _TOLD,
                "(self.cache_read_input_tokens or 0) + (self.cache_creation_input_tokens or 0)",
                "(self.cache_read_input_tokens or 0)",
            ),
            (_TOLD, "msgspec.Meta(ge=0, le=MAX_TOLD)", "msgspec.Meta(le=MAX_TOLD)"),
            (_TOLD, "msgspec.Meta(ge=0, le=MAX_TOLD)", "msgspec.Meta(ge=0)"),
            (
                _TOLD,
                "        usage = _openai.decode(data).usage\n"
                "    except (ValueError, RecursionError):",
                "        usage = _openai.decode(data).usage\n    except RecursionError:",
            ),
        ),
    ),
    rule(
        "A stream's usage is that of its end, and its output events are those with output.",
        "tests/proxy/test_charges.py",
        wrong=(
            (
                _EVENTS,
                "if kind in _LAST and prompt is not None",
                "if prompt is not None",
            ),
            (_EVENTS, "        self.prompt_tokens = prompt\n", ""),
            (
                _EVENTS,
                "            self.output_events += 1\n",
                "            pass\n",
            ),
            (
                _EVENTS,
                "        if kind is EventKind.CONTENT:\n            self.started = True\n"
                "            self.output_events += 1\n",
                "        self.output_events += 1\n"
                "        if kind is EventKind.CONTENT:\n            self.started = True\n",
            ),
            (_DIALECTS, 'b"content_block_start", b"content_block_stop"', 'b"content_block_start"'),
            (_DIALECTS, 'name.endswith((b".added", b".done"))', 'name.endswith(b".added")'),
            (
                _DIALECTS,
                '        if name == b"message_delta":\n            return EventKind.USAGE\n',
                "",
            ),
        ),
    ),
    rule(
        "An estimate is of the prompt and of what all sequences may write, within the context.",
        "tests/proxy/test_charges.py::test_an_answer_without_usage_costs_its_limit",
        "tests/proxy/test_charges.py::test_an_answer_without_usage_costs_the_limit_of_each_choice",
        "tests/proxy/test_charges.py::test_who_leaves_before_the_first_token_pays_the_prompt",
        "tests/proxy/test_charges.py::test_what_runs_is_reserved_by_estimate",
        "tests/proxy/dispatch/test_estimates.py",
        wrong=(
            (
                _ESTIMATES,
                "math.ceil(output) * sequences,",
                "math.ceil(output),",
            ),
            (
                _ESTIMATES,
                "min(request.stream_interval, most or request.stream_interval)",
                "request.stream_interval",
            ),
            (
                _ESTIMATES,
                "size.prompt_tokens + size.prompt_bytes * model.ratios.value(key_id)",
                "size.prompt_bytes * model.ratios.value(key_id)",
            ),
            (
                _ESTIMATES,
                "size.prompt_tokens + size.prompt_bytes * model.ratios.value(key_id)",
                'size.prompt_tokens + size.prompt_bytes * model.ratios.value("")',
            ),
            (
                _ESTIMATES,
                "model.output_p90.value if size.max_tokens is None else",
                "model.output_p90.value if not size.max_tokens else",
            ),
            (
                _ESTIMATES,
                "min(prompt_tokens, float(prompts * longest))",
                "min(prompt_tokens, float(longest))",
            ),
            (
                _ESTIMATES,
                "min(output, longest - prompt_tokens / prompts)",
                "min(output, longest - prompt_tokens)",
            ),
            (_ESTIMATES, "prompt_tokens=prompt_tokens / prompts,", "prompt_tokens=prompt_tokens,"),
        ),
    ),
    rule(
        "Tokens per byte are learned by bytes, for each key apart.",
        "tests/core/dispatch/test_admission.py",
        "tests/proxy/test_request_fields.py::"
        "test_one_keys_odd_prompts_move_no_other_keys_estimates",
        wrong=(
            (
                _ADMISSION,
                "return TokensPerByte(kept * self.tokens + ratio * new, "
                "kept * self.prompt_bytes + new)",
                "return TokensPerByte(0.9 * self.tokens + 0.1 * ratio * self.prompt_bytes, "
                "self.prompt_bytes)",
            ),
            (
                _ADMISSION,
                "kept = min(1.0, (REMEMBERED_BYTES - new) / self.prompt_bytes)",
                "kept = 1.0",
            ),
            (
                _ADMISSION,
                "new = min(float(prompt_bytes), REMEMBERED_BYTES)",
                "new = float(prompt_bytes)",
            ),
            (
                _ADMISSION,
                "known = self._by_key.pop(key, None) or TokensPerByte()",
                "known = self._by_key.get(key) or TokensPerByte()",
            ),
            (
                _ADMISSION,
                "            del self._by_key[next(iter(self._by_key))]\n",
                "            self._by_key.clear()\n",
            ),
            (_ADMISSION, "if len(self._by_key) > MAX_RATIO_KEYS:", "if len(self._by_key) < 0:"),
            (
                _RECORD,
                "observe(self.key_id, size.prompt_bytes, self.usage[0])",
                'observe("", size.prompt_bytes, self.usage[0])',
            ),
            (
                _ADMISSION,
                "ratio = min(4.0, max(0.01, prompt_tokens / prompt_bytes))",
                "ratio = prompt_tokens / prompt_bytes",
            ),
        ),
    ),
    rule(
        "A limit of output holds for the fields that the route's engine reads.",
        "tests/proxy/test_request_fields.py",
        wrong=(
            (
                _ROUTES,
                '_GENERATE, measure_messages, "Answer messages',
                '_GENERATE, measure_chat, "Answer messages',
            ),
            (
                _REQUESTS,
                'return _tokens(body.max_tokens, "max_tokens") if limit is None else limit',
                "return limit",
            ),
            (
                _REQUESTS,
                'limit = _tokens(body.max_output_tokens, "max_output_tokens")',
                'limit = _tokens(body.max_tokens, "max_tokens")',
            ),
            (
                _REQUESTS,
                "asked > limits.max_output_tokens",
                "asked >= limits.max_output_tokens",
            ),
            (
                _REQUESTS,
                "beyond = size.max_tokens is None or (not size.own_limit and "
                "size.max_tokens > most)",
                "beyond = size.max_tokens is None",
            ),
            (
                _REQUESTS,
                "payload[route.output_field] = size.max_tokens = most",
                "size.max_tokens = most",
            ),
            (_REQUESTS, "        size.own_limit = limit is not None\n", ""),
            (_REQUESTS, "if size.has_choices and (", "if (not size.has_choices) and ("),
        ),
    ),
    rule(
        "Token ids are prompt, too: four bytes each.",
        "tests/proxy/test_request_fields.py::test_a_token_id_counts_as_four_bytes",
        "tests/proxy/test_request_fields.py::test_what_becomes_prompt_counts",
        "tests/proxy/test_request_fields.py::test_what_comes_before_each_pair_counts_in_each",
        "tests/proxy/test_request_fields.py::test_what_is_no_prompt_counts_nowhere",
        wrong=(
            (
                _REQUESTS,
                "prompt_bytes = size.prompt_bytes + BYTES_PER_TOKEN_ID * size.prompt_tokens",
                "prompt_bytes = size.prompt_bytes",
            ),
            (
                _REQUESTS,
                "prompt_bytes = size.prompt_bytes + BYTES_PER_TOKEN_ID * size.prompt_tokens",
                "prompt_bytes = size.prompt_bytes + size.prompt_tokens",
            ),
            (
                _REQUESTS,
                "return Size(len(prompt), 0, sum(map(len, prompt)))",
                "return Size(len(prompt), 0, len(prompt))",
            ),
            (
                _REQUESTS,
                "prompt_bytes > limits.max_prompt_bytes:",
                "prompt_bytes >= limits.max_prompt_bytes:",
            ),
            (
                _REQUESTS,
                "return _bytes_of(body.messages) + _size_beside_messages(body)",
                "return _bytes_of(body.messages)",
            ),
            (_REQUESTS, "*sides) + pairs * each)", "*sides) + each)"),
            (_REQUESTS, "*sides) + pairs * each)", "*sides))"),
            (_REQUESTS, "_bytes_of(given, before, body", "_bytes_of(given, body"),
        ),
    ),
    rule(
        "A boolean of a stream's options means here what it means at the engine.",
        "tests/proxy/test_request_fields.py",
        wrong=(
            (_REQUESTS, 'given.get("include_usage") is True', '"include_usage" in given'),
            (
                _REQUESTS,
                "if value is not None and value is not True and value is not False:",
                "if value not in (None, True, False):",
            ),
            (
                _REQUESTS,
                "refusal = _refuse_stream_options(request.stream_options) if route.tells_usage "
                "else None",
                "refusal = _refuse_stream_options(request.stream_options)",
            ),
            (
                _REQUESTS,
                "if add_usage and (given is None or isinstance(given, dict)):",
                "if add_usage:",
            ),
            (
                _REQUESTS,
                'for name in ("include_usage", "continuous_usage_stats"):',
                'for name in ("include_usage",):',
            ),
        ),
    ),
    rule(
        "Budgets that cannot be read are kept beside the new file.",
        "tests/proxy/test_budgets_on_disk.py",
        wrong=(
            (_BUDGETS, "            self._path.rename(aside)\n", "            pass\n"),
            (_BUDGETS, "            self._keeps = True\n", ""),
            (
                _BUDGETS,
                "if isinstance(kept, dict) and len(found) == len(kept):",
                "if isinstance(kept, dict):",
            ),
            (
                _BUDGETS,
                "        self._put_aside(why, len(found))\n        return found",
                "        return found",
            ),
            (_BUDGETS, ".unreadable-{time.time_ns()}", ".unreadable"),
        ),
    ),
)

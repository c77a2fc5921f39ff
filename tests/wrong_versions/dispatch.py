"""Admission, the fair queue, ejection."""

from typing import Final

from tests.wrong_versions.rule import Rule, rule

_ADMISSION: Final = "partitiond/core/dispatch/admission.py"
_QUEUE: Final = "partitiond/core/dispatch/fair_queue.py"
_KEYS: Final = "partitiond/core/dispatch/fair_keys.py"
_BALANCE: Final = "partitiond/core/dispatch/balance.py"

DISPATCH: Final[tuple[Rule, ...]] = (
    rule(
        "A replica takes what fits its limits of sequences and tokens; an empty one anything.",
        "tests/core/dispatch/test_admission.py",
        "tests/core/dispatch/test_fair_queue.py",
        wrong=(
            (
                _ADMISSION,
                "if load.sequences + cost.sequences > effective_limit(",
                "if load.sequences > effective_limit(",
            ),
            (
                _ADMISSION,
                "return load.kv_tokens + cost.kv_tokens <= KV_SHARE * load.kv_cache_tokens",
                "return load.kv_tokens <= KV_SHARE * load.kv_cache_tokens",
            ),
            (
                _ADMISSION,
                "return load.kv_tokens + cost.kv_tokens <= KV_SHARE * load.kv_cache_tokens",
                "return load.kv_tokens + cost.kv_tokens <= load.kv_cache_tokens",
            ),
            (
                _ADMISSION,
                "    if load.sequences == 0:\n        return True\n",
                "    if load.sequences == 0 and load.max_sequences < 0:\n        return True\n",
            ),
        ),
    ),
    rule(
        "Keys share by what they used; a full queue takes the place of the key with the most.",
        "tests/core/dispatch/test_fair_queue.py",
        "tests/property/test_fair_queue_properties.py",
        wrong=(
            (
                _KEYS,
                "self._move(account, account.tag + (actual - charged) / account.weight)",
                "self._move(account, account.tag + (charged - actual) / account.weight)",
            ),
            (_KEYS, "        self._pay(account, entry.charge)\n", ""),
            (
                _QUEUE,
                "                self.discard(displaced)\n",
                "                pass\n",
            ),
            (
                _QUEUE,
                "self._lane.move_to_end(entry, last=False)",
                "self._lane.move_to_end(entry)",
            ),
        ),
    ),
    rule(
        "Of a model no more than a share is ejected, longer each time, after failures in a row.",
        "tests/core/dispatch/test_balance.py",
        wrong=(
            (
                _BALANCE,
                "allowed = ejected_others + 1 <= math.floor(",
                "allowed = ejected_others <= math.floor(",
            ),
            (
                _BALANCE,
                "math.floor(policy.max_share * replicas)",
                "math.ceil(policy.max_share * replicas)",
            ),
            (
                _BALANCE,
                "policy.base_seconds * 2 ** min(health.ejections, 30)",
                "policy.base_seconds * 2 ** min(0, health.ejections)",
            ),
            (
                _BALANCE,
                "if failures < policy.consecutive_failures or",
                "if failures <= policy.consecutive_failures or",
            ),
        ),
    ),
)

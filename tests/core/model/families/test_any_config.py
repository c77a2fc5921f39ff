"""Every config.json gives numbers, or an error that says what to do."""

import dataclasses
import json
import math
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from partitiond.core.errors import SpecError
from partitiond.core.model.architecture import Architecture
from partitiond.core.model.families import architecture_from_config
from partitiond.models.catalog import CATALOG, QUANTISED
from tests.core.model.families.variants import variants

CONFIGS: list[dict[str, Any]] = [
    *variants(),
    *(dict(entry.config) for entry in (*CATALOG.values(), *QUANTISED.values())),
]
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-5, 5)
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["re:(", "llama", "gptq", "auto", "full_attention", 10**400, "\ud800"])
)
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=6,
)


def counted(config: dict[str, Any]) -> Architecture | None:
    """The architecture, or None where it was refused with advice."""
    try:
        found = architecture_from_config(config)
        assert json.dumps(dataclasses.asdict(found), allow_nan=False, ensure_ascii=False).encode()
        return found
    except SpecError as error:
        refused = error
    assert json.dumps(refused.facts, allow_nan=False, ensure_ascii=False).encode()
    assert refused.hint
    assert len(str(refused)) < 1000
    return None


@settings(max_examples=300)
@given(st.data())
def test_a_value_of_any_kind_is_counted_or_refused(data: st.DataObject) -> None:
    config = data.draw(st.sampled_from(CONFIGS))
    key = data.draw(st.sampled_from(sorted(config)))
    architecture = counted({**config, key: data.draw(ANYTHING)})
    if architecture is not None:
        assert 0 < architecture.parameters_per_token <= architecture.parameters
        assert math.isfinite(architecture.kv_bytes(1000))
        assert 0 <= architecture.window_layers <= architecture.layers
        assert 0 <= architecture.stateless_layers <= architecture.layers


@settings(max_examples=150)
@given(st.data())
def test_a_quantisation_of_any_kind_is_counted_or_refused(data: st.DataObject) -> None:
    form = data.draw(st.sampled_from(list(QUANTISED.values())))
    stored = dict(form.config["quantization_config"])
    key = data.draw(st.sampled_from(sorted(stored)))
    architecture = counted(
        {**form.config, "quantization_config": {**stored, key: data.draw(ANYTHING)}}
    )
    if architecture is not None:
        assert architecture.weights_bytes > 0
        assert architecture.quantised_parameters <= architecture.parameters


@given(ANYTHING)
def test_no_config_at_all_is_refused(config: Any) -> None:
    if isinstance(config, dict):
        counted(config)

"""Reads from a Hugging Face `config.json` the numbers that decide memory and speed.

Every linear layer is listed with its name and widths as the model classes of transformers allocate
it. So parameters are exact for the families in `FAMILIES`, and quantised weights are counted matrix
by matrix, scales and zero points included. A family that is not listed there is refused, because a
guess that it is like Llama would be silently wrong.
"""

import dataclasses
from collections.abc import Mapping
from typing import Final

from partitiond.core.errors import SpecError
from partitiond.core.model.architecture import Architecture
from partitiond.core.model.families.blueprint import Blueprint, architecture_of
from partitiond.core.model.families.classic import CLASSIC
from partitiond.core.model.families.dense import LAYOUTS, dense
from partitiond.core.model.families.encoders import ENCODERS
from partitiond.core.model.families.experts import MIXTURES, mixture_of_experts
from partitiond.core.model.families.hybrid import HYBRID, hybrid
from partitiond.core.model.families.latent import LATENT, latent_attention
from partitiond.core.model.families.quantised import stored_quantised
from partitiond.core.model.families.reading import Config, scaled_positions, shown, texts
from partitiond.core.model.families.unlisted import (
    bounded,
    stored_bytes,
    tower_parameters,
)
from partitiond.core.model.families.wrapped import unwrap

_BUILDERS: Final = {**CLASSIC, **ENCODERS}
FAMILIES: Final = tuple(sorted({*_BUILDERS, *LAYOUTS, *MIXTURES, *LATENT, *HYBRID}))
"""Values of `model_type` whose parameters can be counted."""


def architecture_from_config(config: Mapping[str, object]) -> Architecture:
    """Return the architecture that a `config.json` describes; 16-bit values unless it is quantised.

    For a multimodal model this is its text decoder, with room for its towers. A family that is not
    counted is bounded by the size of its files, where `models.folder` found them and its layers
    have heads.

    Raises:
        SpecError: the family or the quantisation is not known, or a key is missing or has no
            sensible value; the message names the key.
    """
    text, note = unwrap(config)
    family = text.get("model_type")
    if not isinstance(family, str):
        raise _unknown(family)
    pools = _pools(config, family)
    if family not in FAMILIES:
        bound = bounded(config, text, family)
        if bound is None:
            raise _unknown(family)
        return dataclasses.replace(bound, pools=pools)
    plan = blueprint(family, text)
    plan = dataclasses.replace(plan, positions=scaled_positions(family, text, plan.positions))
    architecture = dataclasses.replace(
        architecture_of(family, plan, note),
        pools=pools,
        tower_parameters=tower_parameters(config),
    )
    keys = ("quantization_config", "compression_config")
    found = (one.get(key) for key in keys for one in (config, text))
    quantisation = next(filter(None, found), None)
    if not quantisation:
        return architecture
    return stored_quantised(architecture, plan, quantisation, stored_bytes(config))


_GENERATES: Final = ("ForCausalLM", "ForConditionalGeneration", "ChatModel", "LMHeadModel")
_POOLS: Final = ("Model", "ForTextEncoding", "Classification", "ForRewardModeling")
"""Ends of class names, in the order in which vLLM 0.32 asks for them (`config/model.py`)."""


def _pools(config: Config, family: str) -> bool:
    """Return whether vLLM starts the model to embed, rank or classify, if nobody says otherwise.

    `modules` are those of a sentence-transformers folder (`models.folder`).
    """
    modules = config.get("modules")
    listed = [one for one in modules if isinstance(one, str)] if isinstance(modules, list) else []
    if family in ENCODERS or any(kind.endswith("Pooling") for kind in listed):
        return True
    names = texts(config, "architectures") or ()
    return any(n.endswith(_POOLS) and not n.endswith(_GENERATES) for n in names[:1])


def blueprint(family: str, config: Config) -> Blueprint:
    """Return the weights of a model of one of `FAMILIES`, one by one. Raises SpecError."""
    if family in _BUILDERS:
        return _BUILDERS[family](config)
    of_several = (
        (MIXTURES, mixture_of_experts), (LATENT, latent_attention), (HYBRID, hybrid)
    )  # fmt: skip
    build = next((build for families, build in of_several if family in families), dense)
    return build(family, config)


def _unknown(family: object) -> SpecError:
    return SpecError(
        f"config key model_type is {shown(family)}, which is not counted.",
        hint=f"Counted are {', '.join(FAMILIES)}. Any other that has attention is "
        "planned from a profile: give the folder of its weights, whose size is then taken.",
        facts={"key": "model_type", "value": family},
    )

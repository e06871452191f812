"""Versions of stored files, and how an older one becomes today's.

Everything that is stored says its format: model files, classifiers, autoencoders and adapters in their header, checkpoints in theirs,
config.json in its first entry.  Whoever reads one passes its content through `migrate`, and names of tensors through
`tensor_name`.  A newer format is refused, an older one is understood, and written anew only when its owner writes.

    1   until 2026-11.  Configurations and checkpoints did not say their format: what says none is of format 1.
    2   The field's words: epsilon, x0 and v for what is predicted, ema and online for weights, std for deviations.
    3   Large images are resized in two steps (`data.exact_resize`); in older runs all pixels counted alike.
"""

from __future__ import annotations

from typing import Any

from undiffuse.errors import UsageError

FORMAT = 3

PREDICTION_NAMES = {"noise": "epsilon", "clean": "x0", "mean": "posterior_mean", "velocity": "v", "karras": "edm"}
INJECT = {"layers": "embedding", "attention": "cross_attention"}
WEIGHT_NAMES = {"averaged": "ema", "raw": "online"}
GUIDANCE_SETTINGS = {"plain": "cfg", "projected": "apg", "plus": "cfg++"}
SAMPLING = {
    "guidance_form": "guidance_method",
    "guidance_momentum": "apg_momentum",
    "guidance_longest": "apg_norm_threshold",
    "keep_eps": "epsilon_from",
    "noise": "noise_sampler",
}
DESIGN = {
    "clock": "trained_schedule",
    "drop": "condition_dropout",
    "variance": "variance_type",
    "tasks": "degradations",
}
TRAINING = {
    "average_decay": "ema_decay",
    "level_density": "timestep_sampling",
    "level_mean": "timestep_mean",
    "level_deviation": "timestep_std",
}
TRAINING_NUMBERS = {"average_updates": "ema_updates", "returns": "rollbacks"}
CONDITION_KINDS = ("class", "task", "tags", "number", "vector", "text", "image", "augmentation", "seen")


def version_of(content: Any, what: str) -> int:
    """The format that stored content says it is of.

    content: plain data; an object says it in its entry "format", and one that says none is of format 1.   what: the file, for messages.
    Raises UsageError for a format that this version does not know.
    """
    stored = content.get("format", 1) if isinstance(content, dict) else 1
    version = stored if isinstance(stored, int) and not isinstance(stored, bool) else 0
    if version < 1:
        raise UsageError(
            f"{what} says that its format is {stored!r}, which is none: it was changed after it was written."
        )
    if version > FORMAT:
        raise UsageError(
            f"{what} has format {version}, and this version of undiffuse reads up to {FORMAT}: upgrade undiffuse."
        )
    return version


def migrate(content: Any, version: int) -> Any:
    """Stored content of a format as content of today's.

    content: plain data, of a model, a run, a design, a classifier, an autoencoder, adapters or a checkpoint's numbers.
    What it does not know it leaves as it is, so that whoever parses the result says what is wrong.
    """
    content = _to_2(content) if version < 2 else content
    return _to_3(content) if version < 3 else content


def tensor_name(name: str, version: int) -> str:
    """The name that a stored tensor has today."""
    if version < 2:
        head, dot, rest = name.partition(".")
        name = f"{WEIGHT_NAMES[head]}.{rest}" if dot and head in WEIGHT_NAMES else name
        name = f".{name}".replace(".clock_mlp.", ".time_embedding.")[1:]
    return name


def name_in_1(name: str) -> str:
    """The name of a parameter in format 1: digests of weights go by these names, and so are the same number in every version."""
    return f".{name}".replace(".time_embedding.", ".clock_mlp.")[1:]


def _to_2(content: Any) -> Any:
    if isinstance(content, list):
        return [_to_2(each) for each in content]
    if not isinstance(content, dict):
        return content
    found = _renamed({key: _to_2(value) for key, value in content.items()}, {"clock_embedding": "timestep_embedding"})
    if found.get("kind") in CONDITION_KINDS:
        found = _renamed(found, {"drop": "dropout", "deviation": "std"})
        found = _values(found, "inject", INJECT)
        found = _values(found, "kind", {"seen": "observation"})
    if "autoencoder" in found and "deviation" in found:  # statistics of latents
        found = _renamed(found, {"deviation": "std"})
    if "network" in found and "schedule" in found:  # a model, a design or a classifier
        found = _renamed(found, DESIGN)
        found = _values(_values(found, "prediction", PREDICTION_NAMES), "weights", WEIGHT_NAMES)
        if isinstance(found.get("conditions"), dict):
            found["conditions"] = _renamed(found["conditions"], {"seen": "observation"})
    if "solver" in found and "grid" in found:
        found = _values(_renamed(found, SAMPLING), "guidance_method", GUIDANCE_SETTINGS)
        if isinstance(found.get("epsilon_from"), bool):
            found["epsilon_from"] = "unclipped" if found["epsilon_from"] else "clipped"
    if "batch_size" in found and "learning_rate" in found:
        found = _renamed(found, TRAINING)
    if "average_updates" in found:  # the numbers of a checkpoint
        found = _renamed(found, TRAINING_NUMBERS)
    for name in ("held_out", "held_out_error"):  # in a provenance: a score of each set of weights
        if isinstance(found.get(name), dict):
            found[name] = _renamed(found[name], WEIGHT_NAMES)
    return _renamed(found, {"heard": "condition_sensitivity"}) if "made_by" in found else found


def _to_3(content: Any) -> Any:
    data = content.get("data") if isinstance(content, dict) else None
    if not isinstance(data, dict) or "fit" not in data:
        return content
    return content | {"data": {"exact_resize": True} | data}


def _renamed(content: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    """The same entries, in their order, under their new names."""
    return {names.get(key, key): value for key, value in content.items()}


def _values(content: dict[str, Any], key: str, values: dict[str, str]) -> dict[str, Any]:
    """The same with the value of one entry, where it is one of these, under its new name."""
    value = content.get(key)
    return content | {key: values[value]} if isinstance(value, str) and value in values else content

"""Laws of the versions of stored files, whatever the versions are."""

from __future__ import annotations

import pytest

from undiffuse.errors import UsageError
from undiffuse.formats import CONDITION_KINDS, FORMAT, migrate, name_in_1, tensor_name, version_of

OLD_MODEL = {
    "network": {"kind": "unet", "clock_embedding": 3},
    "schedule": {"name": "cosine"},
    "prediction": "velocity",
    "variance": "fixed_small",
    "weights": "raw",
    "conditions": {"seen": {"kind": "seen", "inject": "layers", "drop": 0.1}},
}
OLD_SAMPLING = {"solver": "ddpm", "grid": "trailing", "guidance_form": "plus", "keep_eps": True, "noise": "brownian"}


@pytest.mark.parametrize("stored", [0, -1, True, 1.0, "2", None, [2]])
def test_what_is_no_version_is_refused(stored):
    with pytest.raises(UsageError, match=r"a\.json says that its format is"):
        version_of({"format": stored}, "a.json")


def test_a_newer_format_is_refused_by_its_number_and_every_known_one_is_read():
    with pytest.raises(UsageError, match=rf"a\.json has format {FORMAT + 1}, .* upgrade"):
        version_of({"format": FORMAT + 1}, "a.json")
    assert [version_of({"format": v}, "a.json") for v in range(1, FORMAT + 1)] == list(range(1, FORMAT + 1))
    assert version_of({}, "a.json") == version_of([], "a.json") == 1


@pytest.mark.parametrize("content", [OLD_MODEL, OLD_SAMPLING, {"a": [1, {"kind": "number", "deviation": 2.0}]}, 3, []])
def test_todays_content_is_left_as_it_is_and_what_was_migrated_is_todays(content):
    assert migrate(content, FORMAT) is content
    once = migrate(content, 1)
    assert migrate(once, 1) == once


def test_the_entries_of_a_model_get_their_names_of_today():
    assert migrate(OLD_MODEL, 1) == {
        "network": {"kind": "unet", "timestep_embedding": 3},
        "schedule": {"name": "cosine"},
        "prediction": "v",
        "variance_type": "fixed_small",
        "weights": "online",
        "conditions": {"observation": {"kind": "observation", "inject": "embedding", "dropout": 0.1}},
    }
    assert migrate(OLD_SAMPLING, 1) == {
        "solver": "ddpm",
        "grid": "trailing",
        "guidance_method": "cfg++",
        "epsilon_from": "unclipped",
        "noise_sampler": "brownian",
    }


@pytest.mark.parametrize("kind", CONDITION_KINDS)
def test_words_are_renamed_in_conditions_and_not_in_what_users_wrote(kind):
    assert "std" in migrate({"kind": kind, "deviation": 1.0}, 1)
    assert migrate({"kind": "a user's own", "deviation": 1.0}, 1) == {"kind": "a user's own", "deviation": 1.0}


def test_names_of_tensors_go_both_ways():
    assert tensor_name("averaged.network.clock_mlp.weight", 1) == "ema.network.time_embedding.weight"
    assert tensor_name("averaged.network.clock_mlp.weight", FORMAT) == "averaged.network.clock_mlp.weight"
    assert name_in_1(tensor_name("network.clock_mlp.weight", 1)) == "network.clock_mlp.weight"


@pytest.mark.parametrize("version", [1, 2])
def test_images_of_older_runs_are_resized_as_they_were(version):
    data = {"source": "photos", "size": [64, 64], "fit": "crop"}
    assert migrate({"data": data, "examples": 5}, version)["data"]["exact_resize"] is True
    assert "exact_resize" not in migrate({"data": data}, FORMAT)["data"]
    assert migrate({"data": {"training": 3}}, version) == {"data": {"training": 3}}  # a provenance

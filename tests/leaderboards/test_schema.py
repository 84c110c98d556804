"""The JSON schema of entries, as it is published."""

import json
import re
from pathlib import Path

import jsonschema
import pytest
from pydantic import ValidationError

from oat_bench.results import entries
from oat_bench.results.entries import Entry
from oat_bench.results.records import find

ROOT = Path(__file__).parents[2]
ENTRIES = find(ROOT / "leaderboards")
#: the keys of the first release, whose entries stay valid
FIRST = {
    "format_version", "name", "authors", "venue", "link", "dataset", "architecture",
    "additional_data", "number_forward_passes", "threat_model", "eps", "reported", "method", "seed",
    "operating_points", "frontiers", "attacks", "predictions", "gradients", "command",
    "benchmark_card", "model_fingerprint", "selection", "interpolation", "versions",
}  # fmt: skip


@pytest.fixture(scope="module")
def published():
    return json.loads((ROOT / "docs" / "entry.schema.json").read_text())


def test_the_published_schema_is_that_of_the_model(published):
    """To mend: oat-bench leaderboard schema > docs/entry.schema.json."""
    assert published == json.loads(json.dumps(entries.schema()))


def test_the_id_has_a_version(published):
    assert published["$id"] == f"urn:oat-bench:entry:{entries.SCHEMA_VERSION}"
    assert re.fullmatch(r"1\.\d+", entries.SCHEMA_VERSION)
    assert published["properties"]["format_version"]["const"] == 1


@pytest.mark.parametrize("path", ENTRIES, ids=lambda path: path.stem)
def test_shipped_entries_are_accepted(published, path):
    values = json.loads(path.read_text())
    jsonschema.Draft202012Validator.check_schema(published)
    jsonschema.validate(values, published)


@pytest.mark.parametrize(
    "change",
    [
        lambda v: v.update(surprise=1),
        lambda v: v.pop("dataset"),
        lambda v: v.update(format_version=2),
        lambda v: v.update(seed="0"),
        lambda v: v.update(unreliable="no"),
        lambda v: v["operating_points"][0].update(lam=1.5),
        lambda v: v["operating_points"][0].update(width=0),
        lambda v: v["operating_points"][0].update(n=0),
        lambda v: v["operating_points"][0].update(clean_acc=100.1),
        lambda v: v["operating_points"][0]["robust_acc"]["fgsm"].update(low=-1),
        lambda v: v["operating_points"][0]["cost"].update(flops=-1),
        lambda v: v["frontiers"][0]["hypervolume"].pop("low"),
        lambda v: v.update(gradients="float16"),
        lambda v: v["attacks"][0].pop("class"),
    ],
)
def test_schema_and_model_refuse_the_same(published, change):
    values = json.loads((ROOT / "leaderboards/digits/Linf/oat-wrn-10-1.json").read_text())
    change(values)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(values, published)
    with pytest.raises(ValidationError):
        Entry.model_validate_json(json.dumps(values), strict=True)


def test_keys_that_came_later_have_defaults():
    later = {k: v for k, v in Entry.model_fields.items() if k not in FIRST}
    assert later
    assert all(not field.is_required() for field in later.values())
    # what the defaults say of an old entry: nothing
    old = json.loads((ROOT / "leaderboards/svhn-part/Linf/oat-wrn-16-2.json").read_text())
    entry = Entry.model_validate({k: v for k, v in old.items() if k in FIRST})
    assert (entry.footnote, entry.unreliable, entry.attack_seed) == (None, None, None)
    assert (entry.randomized, entry.data_fingerprint) == (False, "")

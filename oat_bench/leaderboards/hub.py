"""Putting a model on the Hugging Face hub: checkpoint, entry and a model card."""

import json
import re
from pathlib import Path
from typing import Any

from oat_bench import checkpoint
from oat_bench import escape as text
from oat_bench.errors import UserError, one_line
from oat_bench.leaderboards.publishing import check
from oat_bench.reports import per_lambda
from oat_bench.results.entries import Entry
from oat_bench.results.records import Record
from oat_bench.results.reliability import verdict_of
from oat_bench.run_folder import CHECKPOINT, ENTRY
from oat_bench.zoo.hub import library

CARD = "README.md"
#: data sets as the hub calls them
_DATASETS = {
    "cifar10": "uoft-cs/cifar10",
    "cifar100": "uoft-cs/cifar100",
    "fashion-mnist": "zalando-datasets/fashion_mnist",
    "svhn": "ufldl-stanford/svhn",
}


def files(record: Record, weights: Path, repository: str, license: str) -> dict[str, bytes]:
    """Return what is pushed, by name, once entry and weights are found to be of one model."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository, re.ASCII):
        raise UserError(f"{repository!r} is no repository of the hub; expected OWNER/NAME")
    check(record)
    classifier = checkpoint.load(weights)
    if classifier.fingerprint() != record.entry.model_fingerprint:
        raise UserError(f"{weights} is another model than {record.entry_path} is of")
    lams = classifier.info.trained_lambdas
    return {
        CARD: model_card(record, repository, license, lams[len(lams) // 2]).encode(),
        ENTRY: record.entry_path.read_bytes(),
        CHECKPOINT: weights.read_bytes(),
    }


def push(contents: dict[str, bytes], repository: str, *, private: bool) -> str:
    """Make the repository if there is none, put the files there in one commit; return its URL."""
    hub = library()
    operations = [
        hub.CommitOperationAdd(path_in_repo=name, path_or_fileobj=content)
        for name, content in contents.items()
    ]
    api = hub.HfApi(library_name="oat-bench")
    try:
        place = api.create_repo(repository, private=private, exist_ok=True)
        api.create_commit(repository, operations, commit_message="oat-bench leaderboard push")
    except Exception as error:
        raise UserError(
            f"hf:{repository}: cannot be pushed to ({one_line(error)}); it takes a network, and "
            "`hf auth login` by a token that may write there"
        ) from error
    return str(place)


def model_card(record: Record, repository: str, license: str, lam: float) -> str:
    """Write the page of the repository: what is known of the model, by YAML and in words."""
    entry, verdict = record.entry, verdict_of(record)
    about = {
        "by": entry.authors,
        "venue": entry.venue,
        "link": entry.link,
        "note": entry.footnote or "",
        "attack integrity": verdict or "not examined",
        "weights": f"{entry.selection}; seed {entry.seed}",
        "model fingerprint": entry.model_fingerprint,
    }
    known = [f"* {name}: {text.markdown(said)}" for name, said in about.items() if said]
    known += [f"* doubt: {text.markdown(flag.text)}" for flag in entry.flags or ()]
    front = "\n".join(
        f"{key}: {json.dumps(said, ensure_ascii=False)}"
        for key, said in _front(entry, license).items()
    )
    return f"""---
{front}
---

# {text.markdown(entry.name)} on {text.markdown(entry.dataset)}

One image classifier whose trade-off of accuracy and robustness is chosen when it is used, by lambda
from 0 (the most accurate) to 1 (the most robust), attacked at each by oat-bench.

```python
import oat_bench

classifier = oat_bench.load("hf:{repository}")
net = classifier.at(lam={lam:g})  # a torch.nn.Module: images in [0, 1] to logits
```

```sh
oat-bench evaluate hf:{repository} --attacks all
```

{per_lambda.of_entry(entry).markdown()}
## Provenance

{chr(10).join(known)}
* all numbers, attacks and versions: `{ENTRY}`

Measured by

    {text.one_line(entry.command)}
"""


def _front(entry: Entry, license: str) -> dict[str, Any]:
    """Return the metadata that the hub reads: JSON, which is YAML too."""
    named = _DATASETS.get(entry.dataset)
    metrics = []
    for point in entry.operating_points:
        ends = [("SA", point.clean_acc_interval), *list(point.robust.items())[-1:]]
        for name, found in ends:
            what = name if name == "SA" else f"RA ({name})"
            metrics.append({"type": "accuracy", "name": f"{what}, {point}", "value": found.value})
    image = {"type": "image-classification"}
    dataset = {"name": entry.dataset, "type": named or entry.dataset, "split": "test"}
    return {
        "license": license,
        "library_name": "oat-bench",
        "pipeline_tag": "image-classification",
        "tags": ["oat-bench", "adversarial-robustness", "adversarial-training", entry.method],
        **({"datasets": [named]} if named else {}),
        "metrics": ["accuracy"],
        "model-index": [
            {
                "name": entry.name,
                "results": [{"task": image, "dataset": dataset, "metrics": metrics}],
            }
        ],
    }

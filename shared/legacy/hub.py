"""A model card rendered from results, and the upload of a folder to the Hub where the reader asks for one by name.

Nothing here reads, stores or prints a token: the Hub's own client finds the one that its owner has logged in with.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from shared.course import report, runtime
from shared.course.runtime import CourseError, first_line
from shared.legacy import causal

KEPT = ["README.md", "*.json", "*.safetensors", "*.jinja", "*.txt"]  # what is uploaded of a model's folder


def check_repository(name: str) -> str:
    """The name itself if it is an owner/name of the Hub, else CourseError."""
    if not re.fullmatch(r"[\w.-]{1,96}/[\w.-]{1,96}", name):
        raise CourseError(f"'{name}' is no repository of the Hub: write it as owner/name, with your own account as the owner")
    return name


CARD = """\
---
{% if base %}
base_model: {{ base }}
{% endif %}
library_name: peft
pipeline_tag: text-generation
language: {{ language }}
{% if not own_rows %}
datasets:
- {{ dataset }}
{% endif %}
tags:
- lora
---

# {{ title }}

Low-rank adapters for {% if base %}[{{ base }}](https://huggingface.co/{{ base }}){% else %}a model that no Hub has{% endif %}:
{{ r.model.trainable | n }} of {{ r.model.parameters | n }} numbers were trained, on {{ training.rows | n }} rows
({% if own_rows %}the course's own, {% endif %}{{ training.source }}), beside the weights of {{ r.model.id }}.
They are of no use without those. The model and the data have licences of their own: read them before you pass these adapters on.

{{ purpose }}

## Scores

| Measure | Value, 95 % interval |
|---|---|
{% for name, value in r.metrics.items() %}
| {{ name }} | {{ shown_metric(name, value) }} |
{% endfor %}

Measured on {{ tested }}; one training run, seed {{ r.seed }}. For comparison, on the same rows:

| System | Scores |
|---|---|
{% for name, scores in r.baselines.items() %}
| {{ name }} | {% for key, value in scores.items() %}{{ key }} {{ shown_value(key, value) }}{{ ", " if not loop.last }}{% endfor %} |
{% endfor %}

## Use

```python
{{ usage.strip() }}
```

## Training

| Setting | Value |
|---|---|
{% for key in settings if key in r.config %}
| {{ key }} | {{ r.config[key] }} |
{% endfor %}

{{ r.seconds.train | duration }} on {{ r.environment.device }}, {{ r.environment.precision }}. Made with the lesson `{{ r.lesson }}` of the
fine-tuning course.
"""
SETTINGS = ("epochs", "batch_size", "accumulate", "learning_rate", "rank", "alpha", "lora_dropout", "four_bit", "max_length")


def model_card(results: dict[str, Any], *, title: str, dataset: str, language: str, tested: str, purpose: str, usage: str) -> str:
    """A model card in the Hub's form for the adapters of one run.

    Every number, the base model and where the rows came from are taken from `results`: a model with random weights or from
    a folder is on no Hub, and rows that come with the course are not the data set's.

    Args:
        dataset: the Hub id of the data set; left out of the card where the training rows were the course's own.
        language: of the data, as a code ("en").
        tested: the split of the results that was scored.
        purpose: what it is for and what to expect of it, in a few sentences.
        usage: Python code that loads and asks it.
    """
    training = next(part for name, part in results["data"].items() if name.startswith("train"))
    scored = results["data"][tested]
    config = results["config"]
    base = causal.causal_spec(config["model"]).hub_id if config["weights"] == "pretrained" else ""
    training, scored = report.inert(training), report.inert(scored)
    page = report.environment(Path()).from_string(CARD)
    return page.render(
        r=report.inert(results), title=title, base=base, dataset=dataset, language=language,
        own_rows=training["source"].startswith("bundled"), purpose=purpose, usage=usage, settings=SETTINGS, training=training,
        tested=f"{scored['rows']:,} rows of the {tested} split ({scored['source']})", shown_metric=report.shown_metric,
        shown_value=report.shown_value,
    ).strip() + "\n"


def push(folder: Path, repository: str, private: bool = True) -> str:
    """Upload a saved model with its card; returns its address. The repository is made, private unless told otherwise.

    Of several processes only the main one uploads. Raises CourseError for a name that is none, a folder without a card, and
    where the Hub refuses: nobody is logged in, or the token may not write there.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HTTPError, LocalTokenNotFoundError  # the client's own error type, whichever client it uses

    check_repository(repository)
    if not (folder / "README.md").is_file():
        raise CourseError(f"{folder.name} has no model card: write README.md there first (hub.model_card)")
    api = HfApi()

    def upload() -> str:
        address = api.create_repo(repository, private=private, exist_ok=True)
        api.upload_folder(folder_path=folder, repo_id=repository, allow_patterns=KEPT, commit_message="Upload adapters and model card")
        return str(address)

    try:
        return runtime.agreed(upload)
    except (HTTPError, LocalTokenNotFoundError, OSError) as error:
        raise CourseError(
            f"the Hub did not take {repository} ({first_line(error)}): log in with a token that may write (`hf auth login` in a "
            "terminal; on Colab the secret HF_TOKEN), or leave push_to_hub empty"
        ) from None

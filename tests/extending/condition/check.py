"""A condition more: it is in the status of a PromptTemplate, with a reason and a sentence."""

from builders import DATASET_FOUND, NOW, condition_of, dataset, facts, prompt, ready
from kubetune.decide.inspected.prompt_template import ObservedPromptTemplate, decide

READY = ready(dataset(), **DATASET_FOUND)
NAMED = {"datasetRef": {"name": "tickets"}}


def columns_used(**templates: str) -> object:
    """Status and reason of the condition."""
    observed = ObservedPromptTemplate(prompt(NAMED | templates), facts(), READY)
    return condition_of(decide(observed, NOW).status, "ColumnsUsed")


assert columns_used() == ("True", "AllColumnsUsed")
assert columns_used(prompt="Which queue?") == ("False", "ColumnsUnused")
